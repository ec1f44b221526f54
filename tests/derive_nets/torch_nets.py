"""Small networks, PyTorch's side; `paddle_nets.py` has each a second time, with other names and in another order."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations


class Convs(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.twin_a = nn.Conv2d(8, 8, 1)
        self.twin_b = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.line = nn.Conv1d(6, 5, 3)
        self.line_up = nn.ConvTranspose1d(5, 4, 3)
        self.cube = nn.Conv3d(1, 2, 3)
        self.cube_up = nn.ConvTranspose3d(2, 3, 2)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = self.grouped(x) + x
        x = torch.relu(self.twin_a(x)) - self.twin_b(x)
        x = self.up(x)
        y = self.line_up(self.line(x.flatten(2)))
        z = self.cube_up(self.cube(x[:, None]))
        return x, y, z


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.BatchNorm1d(6)
        self.two = nn.BatchNorm2d(6, affine=False)
        self.three = nn.BatchNorm3d(6)
        self.sync = nn.SyncBatchNorm(6)
        self.layer = nn.LayerNorm((6, 4, 5))
        self.bare = nn.LayerNorm(5, elementwise_affine=False)
        self.group = nn.GroupNorm(3, 6)
        self.instance = nn.InstanceNorm2d(6, affine=True)
        self.plain = nn.InstanceNorm2d(6)
        self.prelu = nn.PReLU(6)

    def forward(self, x):
        x = self.one(x.flatten(2)).view_as(x)
        x = self.three(self.two(x)[:, :, None])[:, :, 0]
        x = self.group(self.layer(self.sync(x))) + self.instance(x)
        return self.prelu(self.bare(self.plain(x)))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 5, batch_first=True)
        self.rnn = nn.RNN(5, 5, batch_first=True)
        self.mix = nn.Bilinear(5, 5, 3)
        self.fc1 = nn.Linear(3, 3)
        self.fc2 = nn.Linear(3, 3)

    def forward(self, ids):
        x, _ = self.lstm(self.table(ids))
        y, _ = self.gru(x)
        z, _ = self.rnn(y)
        return self.fc2(torch.tanh(self.fc1(self.mix(y, z))))


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, num_layers=2, proj_size=3, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0]


class Attentions(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

    def forward(self, x, keys, values):
        x = self.encoder(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.cross(x, keys, values, need_weights=False)[0]


class Reparameterised(nn.Module):
    def __init__(self, style="old"):
        super().__init__()
        weight_norm = nn.utils.weight_norm if style == "old" else parametrizations.weight_norm
        spectral_norm = nn.utils.spectral_norm if style == "old" else parametrizations.spectral_norm
        self.conv = weight_norm(nn.Conv2d(3, 6, 3))
        self.whole = weight_norm(nn.Conv2d(6, 6, 1), dim=None)
        self.fc = weight_norm(nn.Linear(6, 6))
        self.spectral = spectral_norm(nn.Linear(6, 5))
        self.spectral_up = spectral_norm(nn.ConvTranspose2d(6, 4, 2))

    def forward(self, x):
        x = torch.relu(self.whole(self.conv(x)))
        return self.spectral(self.fc(x.mean((2, 3)))), self.spectral_up(x)


def reparameterised_new():
    return Reparameterised("new")


class Parameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.square = nn.Parameter(torch.randn(6, 6))
        self.turned = nn.Parameter(torch.randn(6, 6))
        self.wide = nn.Parameter(torch.randn(6, 4))
        self.scale_in = nn.Parameter(torch.ones(6))
        self.scale_out = nn.Parameter(torch.ones(6))
        self.list = nn.ParameterList([torch.randn(4), torch.randn(4)])
        self.register_buffer("mean", torch.rand(6) + 1)
        self.register_buffer("index", torch.arange(5))
        self.register_buffer("hidden", torch.rand(6), persistent=False)
        with torch.no_grad():
            self.hidden[:] = torch.arange(6) / 6

    def forward(self, x):
        x = (x - self.mean + self.hidden) * self.scale_in + self.token
        x = torch.tanh(x @ self.square) @ self.turned
        x = (x * self.scale_out)[:, self.index] @ self.wide
        return x * self.list[0] + self.list[1]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.inner = nn.Linear(6, 6)
        self.again = self.inner
        self.decoder = nn.Linear(6, 9)
        self.decoder.weight = self.table.weight

    def forward(self, ids):
        return self.decoder(self.again(torch.tanh(self.inner(self.table(ids)))))


class Containers(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
        self.named = nn.ModuleDict({"x": nn.Linear(6, 2), "y": nn.Linear(6, 2)})

    def forward(self, x):
        x = self.body(x)
        return [head(x) for head in self.heads] + [self.named["y"](x), self.named["x"](x)]


class Swapped(nn.Module):
    """The same names, on other layers."""

    def __init__(self):
        super().__init__()
        self.conv8 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv16 = nn.Conv2d(4, 4, 3, padding=1)
        self.head8 = nn.Conv2d(4, 2, 1)
        self.head16 = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = torch.relu(self.conv8(x))
        y = torch.relu(self.conv16(x))
        return self.head8(x), self.head16(y)


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(5, 5)
        self.right = nn.Linear(5, 5)
        self.unused_a = nn.Linear(5, 4)
        self.unused_b = nn.Linear(5, 4)

    def forward(self, x):
        return self.left(x) + self.right(x)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.softmax(q @ k.transpose(1, 2), -1) @ v)


class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(6, 1, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


class TrainHeads(nn.Module):
    """Heads of one shape that only training has, on one feature."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.aux1 = nn.Linear(6, 3)
        self.aux2 = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.body(x))
        return (x, self.aux1(x), self.aux2(x)) if self.training else x


class Extra(nn.Module):
    """A bias that Paddle's side lacks, a head that it left out, and settings that differ."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.left_out = nn.Linear(4, 7)

    def forward(self, x):
        return self.fc(x)


class Wrong(nn.Module):
    """A port with a bug: the activation is another one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b = nn.Linear(5, 5)
        self.c = nn.Linear(5, 5)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.tanh(self.a(x)))))


class Unsaved(nn.Module):
    """A buffer that only one side saves, each way."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("made", torch.arange(6) / 8)
        self.register_buffer("kept", torch.arange(6) / 4, persistent=False)

    def forward(self, x):
        return self.fc(x + self.made) * self.kept


class Left(nn.Module):
    """More layers of one look than the port has."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b = nn.Linear(5, 5, bias=False)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Dead(nn.Module):
    """Layers whose outputs nobody uses, which the port calls by each other's names."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.c = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        self.b(y)
        self.c(torch.sin(y))
        return y


class Inner(nn.Module):
    """What the port has in a wrapper, with layers that no call shows and that only names tell."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.idle_a = nn.Linear(4, 4)
        self.idle_b = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)


class Cells(nn.Module):
    """Layers that the port writes otherwise: a 1x1 convolution, cells in a loop, parameters by name."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        )
        self.fc = nn.Linear(8, 6)
        self.cell = nn.LSTMCell(6, 6)
        self.gru = nn.GRU(6, 6, batch_first=True)
        self.named = nn.ParameterDict({"gain": torch.randn(6), "shift": torch.randn(6)})

    def forward(self, x):
        x = self.fc(self.encoder(x))
        h, _ = self.cell(x[:, 0])
        return self.gru(x + h[:, None])[0] * self.named["gain"] + self.named["shift"]


class Narrow(nn.Module):
    """What casts to float32 by itself."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x.float())))


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.idle = nn.Parameter(torch.randn(3, 3))
        self.also = nn.Parameter(torch.randn(7))

    def forward(self, x):
        return self.fc(x)


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)


def Broken():
    raise RuntimeError("Broken by itself")

"""Small networks, Paddle's side; `torch_nets.py` has each a second time, with other names and in another order."""

import paddle
import paddle.nn.functional as F
from paddle import nn


class Convs(nn.Layer):
    def __init__(self):
        super().__init__()
        self.cube_up = nn.Conv3DTranspose(2, 3, 2)
        self.volume = nn.Conv3D(1, 2, 3)
        self.line = nn.Conv1D(6, 5, 3)
        self.line_up = nn.Conv1DTranspose(5, 4, 3)
        self.up = nn.Conv2DTranspose(8, 6, 2, stride=2, groups=2)
        self.pair = nn.Sequential(nn.Conv2D(8, 8, 1), nn.Conv2D(8, 8, 1))
        self.groups = nn.Conv2D(8, 8, 3, padding=1, groups=2, bias_attr=False)
        self.norm = nn.BatchNorm2D(8)
        self.first = nn.Conv2D(3, 8, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = self.groups(x) + x
        x = F.relu(self.pair[1](x)) - self.pair[0](x)
        x = self.up(x)
        y = self.line_up(self.line(x.flatten(2)))
        z = self.cube_up(self.volume(x[:, None]))
        return x, y, z


class Norms(nn.Layer):
    def __init__(self):
        super().__init__()
        self.act = nn.PReLU(6)
        self.plain = nn.InstanceNorm2D(6, weight_attr=False, bias_attr=False)
        self.inst = nn.InstanceNorm2D(6)
        self.gn = nn.GroupNorm(3, 6)
        self.bare = nn.LayerNorm(5, weight_attr=False, bias_attr=False)
        self.ln = nn.LayerNorm((6, 4, 5))
        self.parallel = nn.SyncBatchNorm(6)
        self.c = nn.BatchNorm3D(6)
        self.b = nn.BatchNorm2D(6)
        self.a = nn.BatchNorm1D(6)

    def forward(self, x):
        x = self.a(x.flatten(2)).reshape(x.shape)
        x = self.c(self.b(x)[:, :, None])[:, :, 0]
        x = self.gn(self.ln(self.parallel(x))) + self.inst(x)
        return self.act(self.bare(self.plain(x)))


class Words(nn.Layer):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3)
        self.first = nn.Linear(3, 3)
        self.both = nn.Bilinear(5, 5, 3)
        self.plain = nn.SimpleRNN(5, 5)
        self.gated = nn.GRU(10, 5)
        self.long = nn.LSTM(6, 5, num_layers=2, direction="bidirect")
        self.words = nn.Embedding(11, 6, padding_idx=0)

    def forward(self, ids):
        x, _ = self.long(self.words(ids))
        y, _ = self.gated(x)
        z, _ = self.plain(y)
        y, z = y.reshape([-1, 5]), z.reshape([-1, 5])
        return self.last(paddle.tanh(self.first(self.both(y, z)))).reshape([*ids.shape, 3])


class Projected(nn.Layer):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 5, num_layers=2, proj_size=3, direction="bidirect")

    def forward(self, x):
        return self.rnn(x)[0]


class Attentions(nn.Layer):
    def __init__(self):
        super().__init__()
        self.other = nn.MultiHeadAttention(8, 2, kdim=6, vdim=4)
        self.own = nn.MultiHeadAttention(8, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)

    def forward(self, x, keys, values):
        x = self.layer(x)
        x = x + self.own(x, x, x)
        return self.other(x, keys, values)


class Reparameterised(nn.Layer):
    def __init__(self):
        super().__init__()
        self.up = nn.utils.spectral_norm(nn.Conv2DTranspose(6, 4, 2))
        self.sn = nn.utils.spectral_norm(nn.Linear(6, 5))
        self.wn = nn.utils.weight_norm(nn.Linear(6, 6), dim=1)
        self.all = nn.utils.weight_norm(nn.Conv2D(6, 6, 1), dim=None)
        self.conv = nn.utils.weight_norm(nn.Conv2D(3, 6, 3))

    def forward(self, x):
        x = F.relu(self.all(self.conv(x)))
        return self.sn(self.wn(x.mean((2, 3)))), self.up(x)


reparameterised_new = Reparameterised


class Parameters(nn.Layer):
    def __init__(self):
        super().__init__()
        ones = nn.initializer.Constant(1.0)
        self.more = nn.ParameterList([self.create_parameter([4]), self.create_parameter([4])])
        self.gain = self.create_parameter([6], default_initializer=ones)
        self.gain_before = self.create_parameter([6], default_initializer=ones)
        self.wide = self.create_parameter([4, 6])
        self.turned = self.create_parameter([6, 6])
        self.square = self.create_parameter([6, 6])
        self.cls = self.create_parameter([1, 1, 6])
        self.register_buffer("index", paddle.arange(5))
        self.register_buffer("mean", paddle.rand([6]) + 1)
        self.register_buffer("hidden", paddle.arange(6, dtype="float32") / 6, persistable=False)

    def forward(self, x):
        x = (x - self.mean + self.hidden) * self.gain_before + self.cls
        x = paddle.tanh(x @ self.square) @ self.turned.t()
        x = (x * self.gain)[:, self.index] @ self.wide.t()
        return x * self.more[1] + self.more[0]


class Tied(nn.Layer):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.fc = nn.Linear(6, 6)
        self.shift = self.create_parameter([9], is_bias=True)

    def forward(self, ids):
        x = self.fc(paddle.tanh(self.fc(self.words(ids))))
        return paddle.matmul(x, self.words.weight, transpose_y=True) + self.shift


class Containers(nn.Layer):
    def __init__(self):
        super().__init__()
        self.two = nn.LayerDict({"x": nn.Linear(6, 2), "y": nn.Linear(6, 2)})
        self.outs = nn.LayerList([nn.Linear(6, 3), nn.Linear(6, 3)])
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))

    def forward(self, x):
        x = paddle.tanh(self.layers[2](x))
        x = self.layers[1](paddle.tanh(self.layers[0](x)))
        return [self.outs[1](x), self.outs[0](x), self.two["x"](x), self.two["y"](x)]


class Swapped(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv8 = nn.Conv2D(3, 4, 3, padding=1)
        self.conv16 = nn.Conv2D(4, 4, 3, padding=1)
        self.head16 = nn.Conv2D(4, 2, 1)
        self.head8 = nn.Conv2D(4, 2, 1)

    def forward(self, x):
        x = F.relu(self.conv8(x))
        y = F.relu(self.conv16(x))
        return self.head16(x), self.head8(y)


class Added(nn.Layer):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(5, 5)
        self.two = nn.Linear(5, 5)
        self.idle_1 = nn.Linear(5, 4)
        self.idle_2 = nn.Linear(5, 4)

    def forward(self, x):
        return self.one(x) + self.two(x)


class Packed(nn.Layer):
    def __init__(self):
        super().__init__()
        self.value = nn.Linear(6, 6)
        self.query = nn.Linear(6, 6)
        self.key = nn.Linear(6, 6)
        self.proj = nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        return self.proj(F.softmax(q @ k.transpose([0, 2, 1]), -1) @ v)


class Split(nn.Layer):
    def __init__(self):
        super().__init__()
        self.o = nn.Linear(6, 6)
        self.v = nn.Linear(6, 6)
        self.k = nn.Linear(6, 6)
        self.q = nn.Linear(6, 6)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose([0, 2, 1]) / 6**0.5
        return self.o(F.softmax(scores, -1) @ self.v(x))


class TrainHeads(nn.Layer):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(6, 3)
        self.first = nn.Linear(6, 3)
        self.trunk = nn.Linear(6, 6)

    def forward(self, x):
        x = paddle.tanh(self.trunk(x))
        return (x, self.first(x), self.second(x)) if self.training else x


class Extra(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4, bias_attr=False)

    def forward(self, x):
        return self.fc(x)


class Wrong(nn.Layer):
    def __init__(self):
        super().__init__()
        self.z = nn.Linear(5, 5)
        self.y = nn.Linear(5, 5)
        self.x = nn.Linear(5, 5)

    def forward(self, x):
        return self.x(F.gelu(self.y(F.tanh(self.z(x)))))


class Unsaved(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("made", paddle.arange(6, dtype="float32") / 8, persistable=False)
        self.register_buffer("kept", paddle.arange(6, dtype="float32") / 4)

    def forward(self, x):
        return self.fc(x + self.made) * self.kept


class Left(nn.Layer):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(5, 5)
        self.first = nn.Linear(5, 5)

    def forward(self, x):
        return self.second(paddle.tanh(self.first(x)))


class Dead(nn.Layer):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        y = paddle.tanh(self.a(x))
        self.c(y)
        self.b(paddle.sin(y))
        return y


class _Body(nn.Layer):
    def __init__(self):
        super().__init__()
        self.idle_b = nn.Linear(4, 4)
        self.idle_a = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)


class Inner(nn.Layer):
    def __init__(self):
        super().__init__()
        self.body = _Body()

    def forward(self, x):
        return self.body(x)


class Cells(nn.Layer):
    def __init__(self):
        super().__init__()
        self.bias = self.create_parameter([6])
        self.gain = self.create_parameter([6])
        self.rnn = nn.RNN(nn.GRUCell(6, 6))
        self.step = nn.LSTMCell(6, 6)
        self.conv = nn.Conv1D(8, 6, 1)
        self.transformer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2)

    def forward(self, x):
        x = self.conv(self.transformer(x).transpose([0, 2, 1])).transpose([0, 2, 1])
        h, _ = self.step(x[:, 0])
        return self.rnn(x + h[:, None])[0] * self.gain + self.bias


class Narrow(nn.Layer):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(paddle.tanh(self.first(x.astype("float32"))))


class Idle(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.idle = self.create_parameter([3, 3])
        self.other = self.create_parameter([7])

    def forward(self, x):
        return self.fc(x)


class Turned(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return x @ self.fc.weight.t() + self.fc.bias

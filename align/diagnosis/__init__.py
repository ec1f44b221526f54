"""Why a tap differs: explanations that are tested. One that does not make the difference vanish is not stated."""

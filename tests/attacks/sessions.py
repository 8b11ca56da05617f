"""Frames of a session on its carriers, as docs/src/protocol/sessions.md says."""

import struct

import messages

FRAMES = {
    1: ("OPEN", "IB"), 2: ("DATA", "IH"), 3: ("FIN", "I"), 4: ("RESET", "II"), 5: ("STOP", "II"), 6: ("CREDIT", "IQ"),
    7: ("STREAMS", "I"), 16: ("HAVE", "Q"), 17: ("FROM", "Q"), 18: ("ACK", "Q"), 19: ("PING", "I"), 20: ("PONG", "I"),
    21: ("USE", "I"), 22: ("DATAGRAM", "H"), 23: ("CLOSE", "IB"), 24: ("GONE", ""),
}  # fmt: skip
NUMBERED = ("OPEN", "DATA", "FIN", "RESET", "STOP", "CREDIT", "STREAMS")
WITH_BYTES = ("OPEN", "DATA", "DATAGRAM", "CLOSE")
KINDS = {name: (kind, fields) for kind, (name, fields) in FRAMES.items()}


def read(reader):
    """The next frame: name, numbers, and the bytes behind a length."""
    kind = reader.number("B")
    messages.need(kind in FRAMES, f"frame {kind}")
    name, fields = FRAMES[kind]
    frame = [name, *(reader.number(field) for field in fields)]
    return (*frame, reader.take(frame[-1])) if name in WITH_BYTES else tuple(frame)


def put(name, *numbers, content=b""):
    kind, fields = KINDS[name]
    numbers += (len(content),) if name in WITH_BYTES else ()
    return struct.pack(">B" + fields, kind, *numbers) + content


class Carrier:
    """One carrier at the end that was called: `more` gives its bytes, and `say` takes ours."""

    def __init__(self, more, say):
        self.more, self.say, self.held = more, say, b""

    def opening(self):
        """The first bytes: 1 for a new session or 2 for one that goes on, and its token."""
        while len(self.held) < 33:
            self.fill()
        first, self.held = self.held[:33], self.held[33:]
        return first[0], first[1:]

    def fill(self):
        more = self.more()
        messages.need(more, "the carrier's end")
        self.held += more

    def next(self):
        """The next frame that is no PING, which is answered."""
        while True:
            try:
                reader = messages.Reader(self.held)
                frame = read(reader)
                self.held = reader.data
            except messages.TooShort:
                self.fill()
                continue
            if frame[0] != "PING":
                return frame
            self.say(put("PONG", frame[1]))

"""A client of an OpenSSH master's control socket, no more than the findings need."""
import fcntl, os, socket, struct


def text(data):
    return struct.pack(">I", len(data)) + data


class Master:
    def __init__(self, path, seconds=10):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.settimeout(seconds)
        self.link.connect(path)
        self.link.sendall(text(struct.pack(">II", 1, 4)))
        self.packet()

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.link.recv(count - len(data))
            if not more:
                return None
            data += more
        return data

    def packet(self):
        """The next packet's body, or None at the end."""
        head = self.exactly(4)
        return None if head is None else self.exactly(struct.unpack(">I", head)[0])

    def session(self, command, stdin, stdout, stderr, flags=struct.pack(">IIII", 0, 0, 0, 0)):
        body = struct.pack(">II", 0x10000002, 1) + text(b"") + flags + struct.pack(">I", 0xFFFFFFFF)
        self.link.sendall(text(body + text(b"") + text(command)))
        for descriptor in (stdin, stdout, stderr):
            socket.send_fds(self.link, [b"\0"], [descriptor])


def waits(descriptor):
    """Whether this description blocks: no O_NONBLOCK."""
    return not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK

#!/usr/bin/env python3
"""Takes over a connected socket that p2pd opened, and knows nothing of p2pd.

    p2pd connect ADDRESS --exec ./receive.py        the socket is descriptor 3
    ./receive.py PATH                               it comes over the Unix socket PATH (SCM_RIGHTS)
"""

import socket
import sys

if len(sys.argv) > 1:
    door = socket.socket(socket.AF_UNIX)
    door.bind(sys.argv[1])
    door.listen(1)
    print("waiting", flush=True)
    bringer, _ = door.accept()
    _, descriptors, _, _ = socket.recv_fds(bringer, 1, 1)
    peer = socket.socket(fileno=descriptors[0])
else:
    peer = socket.socket(fileno=3)

peer.sendall(b"hello from Python\n")
peer.shutdown(socket.SHUT_WR)
while data := peer.recv(4096):
    sys.stdout.buffer.write(data)

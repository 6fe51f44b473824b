"""What PySocks does with a proxy:

    python pysocks.py connect|associate PROXYPORT HOST PORT [USER PASSWORD]

connect asks for a page, associate sends datagrams until one comes back; what
comes is printed.
"""
import socket
import sys

import socks

command, proxy_port, host, port = sys.argv[1:5]
user, password = (sys.argv[5:7] + [None, None])[:2]
kind = socket.SOCK_STREAM if command == "connect" else socket.SOCK_DGRAM
family = socket.AF_INET
s = socks.socksocket(family, kind)
s.set_proxy(socks.SOCKS5, "127.0.0.1", int(proxy_port), rdns=True, username=user, password=password)
s.settimeout(20)
try:
    if command == "connect":
        s.connect((host, int(port)))
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while data := s.recv(4096):
            sys.stdout.write(data.decode())
    else:
        s.sendto(b"datagram of PySocks", (host, int(port)))
        data, sender = s.recvfrom(4096)
        name = sender[0].decode() if isinstance(sender[0], bytes) else sender[0]
        print(data.decode(), "from", name, sender[1])
except (socks.ProxyError, OSError) as err:
    print("error:", err)
    sys.exit(1)

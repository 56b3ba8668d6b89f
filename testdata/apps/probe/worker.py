# Serves on 8080 and does what its standard input says, one line after the other.
import concurrent.futures, errno, os, socket, sys, threading
def serve(l):
    while True:
        c, _ = l.accept()
        try:
            c.recv(4096)
            c.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe debuggee")
            c.close()
        except OSError:
            pass
def get(c):
    with c:
        c.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return c.recv(4096).split(b"\r\n")[0].decode()
held, opened = None, None
def do(command, *args):
    global held, opened
    if command == "read":
        with open(args[0], "rb") as f: return len(f.read(100))
    if command == "open":
        opened = open(args[0], "rb", buffering=0)
        return len(opened.read(100))
    if command == "more":
        return len(os.pread(opened.fileno(), 4096, int(args[0])))
    if command == "dial":
        held = socket.create_connection((args[0], int(args[1])), 20)
        return "connected"
    if command == "wait":
        held.settimeout(20)
        return repr(held.recv(10))
    if command == "ask":
        held.settimeout(20)
        held.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return held.recv(4096).split(b"\r\n")[0].decode()
    if command == "many": # all are open before the first is used
        with concurrent.futures.ThreadPoolExecutor(int(args[2])) as pool:
            all = list(pool.map(lambda _: socket.create_connection((args[0], int(args[1])), 20), range(int(args[2]))))
            return " ".join(set(pool.map(get, all)))
    if command == "each": # one after the other
        return " ".join({get(socket.create_connection((args[0], int(args[1])), 20)) for _ in range(int(args[2]))})
    if command == "name":
        return socket.gethostbyname(args[0])
    if command == "serve":
        l = socket.create_server(("", 8080), backlog=128)
        threading.Thread(target=serve, args=(l,), daemon=True).start()
        return "listening"
for line in sys.stdin:
    try:
        result = do(*line.split())
    except socket.gaierror as e:
        result = "no name"
    except OSError as e:
        result = errno.errorcode.get(e.errno, repr(e))
    print(line.strip(), "=", result, flush=True)

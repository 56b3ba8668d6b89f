"""The debuggee of the tests in Python; see main.go."""
import errno, hashlib, http.server, json, mmap, os, signal, socket, sys, urllib.request

SECRET, CONFIG, LARGE = "/etc/shop-secret/token", "/etc/shop", "/shop"


def code(error):
    return errno.errorcode.get(error.errno, str(error))


def look():
    seen = {"language": "python", "greeting": os.environ.get("SHOP_GREETING"), "hostname": socket.gethostname()}
    with open(SECRET) as f:
        seen["secret"] = f.read()
        seen["mode"] = "%o" % (os.fstat(f.fileno()).st_mode & 0o777)
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m:
            seen["mapped"] = m[:].decode()
    seen["config"] = sorted(os.listdir(CONFIG))
    with open(LARGE, "rb") as f:
        seen["large"] = os.fstat(f.fileno()).st_size
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m:
            seen["largeHash"] = hashlib.sha256(m).hexdigest()
    try:
        open("/etc/shop/absent")
    except OSError as e:
        seen["absent"] = code(e)
    seen["address"] = socket.gethostbyname("inventory")
    try:
        socket.getaddrinfo("none.shop.svc.cluster.local", 80)
    except socket.gaierror as e:
        seen["noName"] = "ENOTFOUND" if e.errno == socket.EAI_NONAME else str(e)
    seen["inventory"] = urllib.request.urlopen("http://inventory/").read().decode()
    try:
        socket.create_connection((os.environ["PROBE_REFUSED"], 9))
    except OSError as e:
        seen["refused"] = code(e)
    with socket.create_connection(("inventory", 80)) as s:
        seen["local"], seen["peer"] = "%s:%d" % s.getsockname(), "%s:%d" % s.getpeername()
    return seen


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "probe python for %s:%d at %s:%d\n" % (*self.client_address, *self.connection.getsockname())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def end(*_):
    print("ending", flush=True)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print(json.dumps(look()), flush=True)
server = http.server.ThreadingHTTPServer(("", 8080), Handler)
print("listening", "%s:%d" % server.socket.getsockname(), flush=True)
server.serve_forever()

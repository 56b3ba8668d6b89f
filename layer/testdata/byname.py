# Changes files below argv[1] in every way there is, and tells what came of it.
import ctypes, errno, os, stat, sys

top = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
FDCWD, SYS_UTIMENSAT = -100, {"x86_64": 280, "aarch64": 88}[os.uname().machine]
LINKAT = {"x86_64": 265, "aarch64": 37}[os.uname().machine]
RENAMEAT2 = {"x86_64": 316, "aarch64": 276}[os.uname().machine]

def p(name):
    return top + "/" + name

def tell(what, *args):
    print(what.replace(top, "TOP"), *args, flush=True)

def do(what, f, *args, **kw):
    try:
        r = f(*args, **kw)
        tell(what, "=", r)
    except OSError as e:
        tell(what, "=", errno.errorcode[e.errno])

def call(number, *args):
    args = [a.encode() if isinstance(a, str) else a for a in args]
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "")

def look(*names):
    for name in names:
        try:
            st = os.lstat(p(name))
        except OSError as e:
            tell("  " + name, errno.errorcode[e.errno])
            continue
        text = os.readlink(p(name)).replace(top, "TOP") if stat.S_ISLNK(st.st_mode) else ""
        times = [t if t < 10**15 or t == 10**18 else "now" for t in (st.st_atime_ns, st.st_mtime_ns)]
        if stat.S_ISDIR(st.st_mode) or stat.S_ISLNK(st.st_mode):
            times = ""
        tell("  " + name, oct(st.st_mode), st.st_nlink, st.st_uid == os.getuid(), "" if stat.S_ISDIR(st.st_mode) else st.st_size, text, times)

def listed(name):
    tell("  in " + name + ":", *sorted(os.listdir(p(name))))

look("a", "file")                       # answers that will not be true any more
os.umask(0o027)
do("mkdir", os.mkdir, p("a"))
look("a")
do("mkdir again", os.mkdir, p("a"))
do("mkdir below nothing", os.mkdir, p("none/x"))
do("mkdir below a file", os.mkdir, p("file/x"))
do("mkdir with a slash", os.mkdir, p("b/"), 0o1777)
os.umask(0)
do("mkdir, no mask", os.mkdir, p("c"), 0o777)
look("b", "c")
listed("")
d = os.open(p("a"), os.O_RDONLY | os.O_DIRECTORY)
do("mkdirat", os.mkdir, "in", dir_fd=d)
do("mkfifo", os.mkfifo, p("a/fifo"), 0o640)
do("mknod", os.mknod, p("a/plain"), 0o604)
do("mknod of a device", os.mknod, p("a/null"), stat.S_IFBLK | 0o666, os.makedev(250, 3)) if os.getuid() else None
look("a/in", "a/fifo", "a/plain")
do("symlink", os.symlink, "../file", p("a/link"))
do("symlinkat", os.symlink, "nothing", "dangling", dir_fd=d)
do("symlink again", os.symlink, "x", p("a/link"))
do("symlink of nothing", os.symlink, "", p("a/empty"))
look("a/link", "a/dangling")
do("link", os.link, p("file"), p("hard"))
look("file", "hard")
do("link of a link", os.link, p("a/link"), p("a/link2"), follow_symlinks=False)
do("link, followed", call, LINKAT, FDCWD, p("a/link"), FDCWD, p("a/hard2"), 0x400)
do("linkat, bad flags", call, LINKAT, FDCWD, p("a/link"), FDCWD, p("a/hard3"), 0x800)
do("linkat", os.link, "link", "link3", src_dir_fd=d, dst_dir_fd=d, follow_symlinks=False)
do("link of a directory", os.link, p("a"), p("d"))
look("file", "a/link2", "a/hard2", "a/link3")
do("stat for later", os.stat, p("moved"))
do("rename", os.rename, p("hard"), p("moved"))
look("hard", "moved")
do("rename of nothing", os.rename, p("hard"), p("moved"))
do("rename of a directory into itself", os.rename, p("a"), p("a/in/x"))
do("rename over a full directory", os.rename, p("c"), p("a"))
do("rename of a file over a directory", os.rename, p("file"), p("c"))
do("renameat", os.rename, "plain", "plainer", src_dir_fd=d, dst_dir_fd=d)
do("renameat2, no replacing", call, RENAMEAT2, FDCWD, p("file"), FDCWD, p("moved"), 1)
do("renameat2, exchanging", call, RENAMEAT2, FDCWD, p("file"), FDCWD, p("c"), 2)
look("file", "c")
do("back", call, RENAMEAT2, FDCWD, p("file"), FDCWD, p("c"), 2)
do("renameat2, unknown", call, RENAMEAT2, FDCWD, p("file"), FDCWD, p("w"), 64)
do("rename of a directory", os.rename, p("a"), p("z"))
look("a", "a/link", "z", "z/link")
do("in a directory that was renamed", os.mkdir, "in2", dir_fd=d)
look("z/in2", "a/in2")
do("back", os.rename, p("z"), p("a"))
do("rmdir", os.rmdir, "in2", dir_fd=d)
do("chmod", os.chmod, p("file"), 0o4751)
do("fchmodat", os.chmod, "plainer", 0o600, dir_fd=d)
do("chmod by a link", os.chmod, p("a/link"), 0o640)
do("chmod of nothing", os.chmod, p("a/dangling"), 0o640)
look("file", "a/plainer")
do("chown", os.chown, p("file"), os.getuid(), os.getgid())
do("chown of nobody", os.chown, p("file"), -1, -1)
do("lchown", os.chown, p("a/dangling"), os.getuid(), -1, follow_symlinks=False)
do("chown of nothing", os.chown, p("a/dangling"), os.getuid(), -1)
do("utime", os.utime, p("file"), ns=(10**12 + 1, 10**13 + 2))
look("file")
do("utime, now", os.utime, p("file"))
look("file")
do("utime of a link", os.utime, p("a/link"), ns=(1, 2), follow_symlinks=False)
do("utimensat, half", call, SYS_UTIMENSAT, FDCWD, p("file"), (ctypes.c_long * 4)(0, (1 << 30) - 2, 5, 6), 0)
do("utimensat, nothing", call, SYS_UTIMENSAT, FDCWD, p("none"), (ctypes.c_long * 4)(0, (1 << 30) - 2, 0, (1 << 30) - 2), 0)
do("utimensat, nonsense", call, SYS_UTIMENSAT, FDCWD, p("file"), (ctypes.c_long * 4)(0, 10**9, 5, 6), 0)
do("utimensat, bad flags", call, SYS_UTIMENSAT, FDCWD, p("file"), 0, 0x10)
fd = os.open(p("file"), os.O_RDONLY)
do("futimens", os.utime, fd, ns=(10**12 + 3, 10**12 + 4))
do("fchmod", os.fchmod, fd, 0o711)
do("fchown", os.fchown, fd, -1, os.getgid())
look("file")
def fstat():
    st = os.fstat(fd)
    tell("  open:", oct(st.st_mode), st.st_nlink, st.st_size, st.st_mtime_ns)
fstat()
do("link of a descriptor", call, LINKAT, FDCWD, "/proc/self/fd/%d" % fd, FDCWD, p("file4"), 0x400)
do("link of what /proc has", call, LINKAT, FDCWD, "/proc/self/fd/%d" % fd, FDCWD, p("file5"), 0)
do("rename below a descriptor", os.rename, "/proc/self/fd/%d/plainer" % d, "/dev/fd/%d/plain2" % d)
look("file4", "a/plainer", "a/plain2")
do("link over a link", call, LINKAT, FDCWD, "/proc/self/fd/%d" % fd, FDCWD, "/proc/self/fd/%d/plain2" % d, 0x400)
do("unlink", os.unlink, p("file4"))
do("back", os.rename, "plain2", "plainer", src_dir_fd=d, dst_dir_fd=d)
os.chmod(p("file"), 0o755)
os.link(p("file"), p("file2"))
fstat()
os.rename(p("file2"), p("file3"))
os.utime(p("file3"), ns=(10**12 + 5, 10**12 + 6))
os.unlink(p("file3"))
fstat()
os.close(fd)
bare = os.open(p("file"), os.O_PATH)
do("futimens, O_PATH", os.utime, bare, ns=(1, 2))
do("fchmod, O_PATH", os.fchmod, bare, 0o711)
do("fchown, O_PATH", os.fchown, bare, -1, -1)
do("fgetxattr, O_PATH", os.getxattr, bare, "user.x")
do("chmod through O_PATH", os.chmod, "/proc/self/fd/%d" % bare, 0o751)
look("file")
do("truncate", os.truncate, p("file"), 3)
do("read", lambda: open(p("file")).read())
do("truncate", os.truncate, p("file"), 10)
do("read", lambda: open(p("file")).read())
do("truncate below nothing", os.truncate, p("file"), -1)
do("truncate of a directory", os.truncate, p("a"), 0)
do("truncate of nothing", os.truncate, p("none"), 0)
look("file")
do("access", os.access, p("file"), os.W_OK)
do("access of nothing", os.access, p("none"), os.W_OK)
do("a name of 255", os.mkdir, p("n" * 255))
do("a name of 256", os.mkdir, p("n" * 256))
do("unlink of a directory", os.unlink, p("a"))
do("rmdir of a file", os.rmdir, p("file"))
do("rmdir of a full directory", os.rmdir, p("a"))
do("rmdir of .", os.rmdir, p("c/."))
do("rmdir of ..", os.rmdir, p("a/in/.."))
do("unlinkat", os.unlink, "link2", dir_fd=d)
do("rmdirat", os.rmdir, "in", dir_fd=d)
do("unlink", os.unlink, p("file"))
do("open", os.open, p("file"), os.O_RDONLY)
do("unlink again", os.unlink, p("file"))
do("unlink through a loop", os.unlink, p("loop/x"))
do("unlink of a loop", os.unlink, p("loop"))
do("rmdir", os.rmdir, p("n" * 255))
do("rmdir", os.rmdir, p("c/"))
look("c", "a/in", "a/link2", "file", "moved")
listed("")
listed("a")
do("chmod of a directory by descriptor", os.fchmod, d, 0o2700)
look("a")

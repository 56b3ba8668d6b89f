// calls makes the calls that no scripting language makes as they are.
// Usage: calls WHAT [ARGUMENTS]
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/openat2.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SHOW(call) do { errno = 0; long r_ = (call); printf("%s: %s\n", #call, r_ < 0 ? strerrorname_np(errno) : "ok"); } while (0)

/* Everything that would change the target fails, and nothing is created here. */
static int modify(void)
{
	const char *f = "/app/big", *n = "/app/new";
	SHOW(open(f, O_WRONLY));
	SHOW(open(f, O_RDWR | O_CREAT, 0644));
	SHOW(open(f, O_RDONLY | O_TRUNC));
	SHOW(open(f, O_CREAT | O_EXCL, 0644));
	SHOW(open(n, O_WRONLY | O_CREAT, 0644));
	SHOW(open(n, O_WRONLY));
	SHOW(open("/app", O_TMPFILE | O_RDWR, 0644));
	SHOW(open("/app/dir", O_WRONLY));
	SHOW(creat(n, 0644));
	SHOW(unlink(f));
	SHOW(unlink(n));
	SHOW(unlinkat(AT_FDCWD, "/app/dir", AT_REMOVEDIR));
	SHOW(rmdir("/app/dir"));
	SHOW(mkdir(n, 0755));
	SHOW(mkdir("/app/dir", 0755));
	SHOW(mknod(n, S_IFREG | 0644, 0));
	SHOW(rename(f, n));
	SHOW(rename(f, "/tmp/x"));
	SHOW(rename("/tmp", n));
	SHOW(link(f, n));
	SHOW(symlink("x", n));
	SHOW(chmod(f, 0600));
	SHOW(chown(f, 1, 1));
	SHOW(lchown(f, 1, 1));
	SHOW(truncate(f, 0));
	SHOW(utimensat(AT_FDCWD, f, NULL, 0));
	SHOW(setxattr(f, "user.x", "y", 1, 0));
	SHOW(removexattr(f, "user.x"));
	SHOW(getxattr(f, "user.x", NULL, 0));
	SHOW(listxattr(f, NULL, 0));
	SHOW(access(f, W_OK));
	SHOW(access(f, R_OK));
	SHOW(access(n, F_OK));
	SHOW(chdir("/app/dir"));
	SHOW(chdir(f));
	SHOW(syscall(SYS_io_uring_setup, 1, NULL));
	struct statfs fs;
	SHOW(statfs(f, &fs));
	int fd = open("/proc/self/exe", O_RDONLY);
	SHOW(linkat(fd, "", AT_FDCWD, n, AT_EMPTY_PATH));
	SHOW(linkat(fd, "", AT_FDCWD, n, 0));
	SHOW(linkat(AT_FDCWD, f, AT_FDCWD, "", 0));
	return 0;
}

/* What is done with an injected file works as with any other. */
static int use(const char *path)
{
	struct stat by_path, by_fd;
	struct statx x;
	char text[4096] = "", link[64], buf[16] = "";
	int fd = open(path, O_RDONLY);
	if (fd < 0 || stat(path, &by_path) || syscall(SYS_fstat, fd, &by_fd) || statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x))
		return perror(path), 1;
	printf("same file: %d size: %d mtime: %d mode: %d statx: %d\n", by_path.st_ino == by_fd.st_ino && by_path.st_dev == by_fd.st_dev,
	       by_path.st_size == by_fd.st_size, by_path.st_mtime == by_fd.st_mtime, by_path.st_mode == by_fd.st_mode,
	       x.stx_ino == by_path.st_ino && x.stx_size == (unsigned long long)by_path.st_size);
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	if (readlink(link, text, sizeof text - 1) < 0)
		return perror(link), 1;
	printf("readlink: %s\n", text);
	char *m = mmap(NULL, by_fd.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (m == MAP_FAILED)
		return perror("mmap"), 1;
	printf("mmap: %.5s\n", m);
	m[0] = 'X';
	int again = open(link, O_RDONLY);
	if (again < 0 || pread(again, buf, 5, 0) != 5)
		return perror("opening again"), 1;
	printf("again: %s\n", buf);
	int p[2];
	if (pipe(p) || sendfile(p[1], fd, NULL, 5) != 5 || read(p[0], buf, 5) != 5)
		return perror("sendfile"), 1;
	printf("sendfile: %s\n", buf);
	SHOW(write(fd, "x", 1));
	printf("flags: %d\n", fcntl(fd, F_GETFL) & O_ACCMODE);
	return 0;
}

/* Descriptors that stand for a file of the target, and what leads through them. */
static int path(void)
{
	struct stat st;
	struct statx x;
	struct statfs fs;
	char text[4096], link[64], buf[64] = "";
	struct { struct file_handle h; char room[MAX_HANDLE_SZ]; } handle = {.h = {.handle_bytes = MAX_HANDLE_SZ}};
	int mount;
	int d = open("/app", O_PATH), f = openat(d, "link", O_PATH), l = openat(d, "link", O_PATH | O_NOFOLLOW), big = openat(d, "big", O_RDONLY);
	SHOW(open("/app/none", O_PATH));
	SHOW(open("/app/big", O_PATH | O_DIRECTORY));
	SHOW(openat(f, "x", O_RDONLY));
	SHOW(read(f, buf, 1));
	printf("types: %d %d %d\n", !fstat(d, &st) && S_ISDIR(st.st_mode), !fstat(f, &st) && S_ISREG(st.st_mode), !fstat(l, &st) && S_ISLNK(st.st_mode));
	printf("statx: %d\n", !statx(f, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x) && x.stx_size == 12);
	ssize_t n = readlinkat(l, "", text, sizeof text);
	printf("readlinkat: %.*s\n", (int)n, text);
	snprintf(link, sizeof link, "/proc/self/fd/%d", f);
	n = readlink(link, text, sizeof text);
	printf("readlink: %.*s\n", (int)n, text);
	int again = open(link, O_RDONLY);
	n = read(again, buf, sizeof buf);
	printf("through /proc: %.*s", (int)n, buf);
	SHOW(stat(link, &st));
	printf("size: %d\n", (int)st.st_size);
	printf("link: %d\n", !lstat(link, &st) && S_ISLNK(st.st_mode));
	SHOW(open(link, O_WRONLY));
	SHOW(truncate(link, 0));
	SHOW(chmod(link, 0600));
	SHOW(access(link, W_OK));
	snprintf(link, sizeof link, "/proc/%d/fd/%d", getpid(), big);
	SHOW(open(link, O_RDWR));
	SHOW(open(link, O_RDONLY));
	SHOW(stat(link, &st));
	printf("size: %d\n", (int)st.st_size);
	snprintf(link, sizeof link, "/dev/fd/%d/dir/b", d);
	SHOW(stat(link, &st));
	SHOW(syscall(SYS_faccessat2, f, "", R_OK, AT_EMPTY_PATH));
	SHOW(syscall(SYS_faccessat2, f, "", W_OK, AT_EMPTY_PATH));
	SHOW(fchmod(f, 0600));
	SHOW(fchown(f, 0, 0));
	SHOW(futimens(f, NULL));
	SHOW(fgetxattr(f, "user.origin", buf, 1));
	SHOW(flistxattr(f, buf, 1));
	SHOW(fsetxattr(f, "user.x", "y", 1, 0));
	SHOW(fremovexattr(f, "user.x"));
	SHOW(fchownat(f, "", 0, 0, AT_EMPTY_PATH));
	SHOW(fstatfs(f, &fs));
	SHOW(fstatfs(big, &fs));
	struct statfs by_path;
	printf("as by path: %d\n", !statfs("/app/big", &by_path) && by_path.f_type == fs.f_type && by_path.f_blocks == fs.f_blocks);
	SHOW(name_to_handle_at(d, "big", &handle.h, &mount, 0));
	SHOW(name_to_handle_at(big, "", &handle.h, &mount, AT_EMPTY_PATH));
	SHOW(inotify_add_watch(inotify_init(), "/app/big", IN_MODIFY));
	SHOW(execl("/app/big", "big", NULL));
	SHOW(execl("/app/none", "none", NULL));
	SHOW(syscall(SYS_execveat, big, "", NULL, NULL, AT_EMPTY_PATH));
	SHOW(syscall(SYS_execveat, d, "big", NULL, NULL, 0));
	struct open_how how = {.flags = O_RDONLY};
	for (how.resolve = 1; how.resolve <= 32; how.resolve *= 2) {
		errno = 0;
		syscall(SYS_openat2, d, "dir/b", &how, sizeof how);
		printf("openat2 %d: %s\n", (int)how.resolve, strerrorname_np(errno));
	}
	int root = open("/", O_PATH);
	how.resolve = RESOLVE_IN_ROOT;
	int bin = open("/usr", O_PATH), up;
	do
		up = syscall(SYS_openat2, bin, "/../bin", &how, sizeof how);
	while (up < 0 && errno == EAGAIN); /* somebody renamed or mounted meanwhile */
	printf("a root of this machine: %d\n", up >= 0);
	SHOW(syscall(SYS_openat2, root, "app/big", &how, sizeof how));
	return 0;
}

/* Extended attributes, by path, link and descriptor. */
static int xattrs(void)
{
	char text[64] = "", names[256] = "";
	int fd = open("/app/big", O_RDONLY), small = open("/app/dir/a", O_RDONLY);
	SHOW(getxattr("/app/big", "user.origin", NULL, 0));
	printf("size: %zd\n", getxattr("/app/big", "user.origin", NULL, 0));
	printf("value: %zd %s\n", getxattr("/app/big", "user.origin", text, sizeof text), text);
	printf("of a descriptor: %zd\n", fgetxattr(fd, "user.origin", text, sizeof text));
	SHOW(getxattr("/app/big", "user.origin", text, 2));
	SHOW(getxattr("/app/big", "user.none", text, sizeof text));
	SHOW(getxattr("/app/none", "user.origin", text, sizeof text));
	SHOW(getxattr("/app/big", "", text, sizeof text));
	SHOW(lgetxattr("/app/link", "user.origin", text, sizeof text));
	printf("names: %zd %s\n", listxattr("/app/big", names, sizeof names), names);
	printf("of a descriptor: %zd\n", flistxattr(fd, names, sizeof names));
	SHOW(llistxattr("/app/link", names, sizeof names));
	SHOW(listxattr("/app/big", names, 2));
	SHOW(fsetxattr(small, "user.x", "y", 1, 0));
	SHOW(fremovexattr(small, "user.x"));
	SHOW(syscall(464, AT_FDCWD, "/app/big", 0, "user.origin", NULL, 0));
	return 0;
}

static void *opener(void *arg)
{
	int *fd = arg;
	*fd = open("/app/big", O_RDONLY);
	return NULL;
}

/* A path that ends where its mapping ends, read by a thread. */
static int edge(void)
{
	long page = sysconf(_SC_PAGESIZE);
	char *m = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED || munmap(m + 2 * page, page))
		return 1;
	const char *path = "/etc/shop/config.yaml";
	char *p = m + 2 * page - strlen(path) - 1;
	strcpy(p, path);
	int fd = open(p, O_RDONLY);
	char buf[8] = "";
	printf("at the end: %zd %s\n", read(fd, buf, 5), buf);
	p = m + page - 5;
	strcpy(p, path);
	fd = open(p, O_RDONLY);
	printf("over a page: %zd\n", read(fd, buf, 5));
	SHOW(open((char *)1, O_RDONLY));
	char *longest = malloc(5000);
	memset(longest, 'a', 4999);
	longest[0] = '/';
	longest[4999] = 0;
	SHOW(open(longest, O_RDONLY));
	pthread_t t;
	int got = -1;
	pthread_create(&t, NULL, opener, &got);
	pthread_join(t, NULL);
	printf("by a thread: %d\n", got >= 0);
	return 0;
}

/* getpeername and getsockname as the manual has them. */
static int peer(const char *ip)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)}, got;
	inet_pton(AF_INET, ip, &a.sin_addr);
	int s = socket(AF_INET, SOCK_STREAM, 0);
	SHOW(getpeername(s, (void *)&got, &(socklen_t){sizeof got}));
	SHOW(connect(s, (void *)&a, sizeof a));
	SHOW(connect(s, (void *)&a, sizeof a));
	socklen_t n = sizeof got;
	getpeername(s, (void *)&got, &n);
	printf("peer %s:%d size %u\n", inet_ntoa(got.sin_addr), ntohs(got.sin_port), n);
	memset(&got, 0, sizeof got);
	n = 4;
	getpeername(s, (void *)&got, &n);
	printf("cut: port %d address %s size %u\n", ntohs(got.sin_port), inet_ntoa(got.sin_addr), n);
	n = -1;
	SHOW(getpeername(s, (void *)&got, &n));
	SHOW(getpeername(s, (void *)1, &(socklen_t){sizeof got}));
	n = sizeof got;
	int d = dup(s);
	close(s);
	getpeername(d, (void *)&got, &n);
	printf("dup %s\n", inet_ntoa(got.sin_addr));
	return 0;
}

static volatile int ticks;
static void tick(int s) { (void)s; ticks++; }

static void sigalrm(int flags, int usec)
{
	struct sigaction sa = {.sa_handler = tick, .sa_flags = flags};
	sigaction(SIGALRM, &sa, NULL);
	struct itimerval it = {{0, usec}, {0, usec}};
	setitimer(ITIMER_REAL, &it, NULL);
}

/* Remote opens, a connect and a refused one, under a storm of signals. */
static int storm(int opens)
{
	sigalrm(SA_RESTART, 2000);
	for (int i = 0; i < opens; i++) {
		char buf[12] = "";
		int fd = open("/etc/shop/config.yaml", O_RDONLY);
		if (fd <= 2)
			return printf("open %d gave %d: %s\n", i, fd, strerror(errno)), 1;
		if (read(fd, buf, 11) != 11 || strcmp(buf, "color: blue"))
			return printf("open %d read %s\n", i, buf), 1;
		close(fd);
	}
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};
	for (int i = 0; i < 5; i++) {
		inet_pton(AF_INET, "10.96.1.1", &a.sin_addr);
		int s = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(s, (void *)&a, sizeof a))
			return perror("connect"), 1;
		close(s);
		inet_pton(AF_INET, "10.96.9.9", &a.sin_addr);
		s = socket(AF_INET, SOCK_STREAM, 0);
		if (!connect(s, (void *)&a, sizeof a) || errno != ECONNREFUSED)
			return perror("connect that is refused"), 1;
		close(s);
	}
	sigalrm(SA_RESTART, 0);
	printf("fine, signals: %d\n", ticks > opens);
	return 0;
}

static volatile pthread_t knocked; /* 0: it has ended */

static void *knock(void *unused)
{
	for (pthread_t at; (at = knocked);) {
		pthread_kill(at, SIGALRM);
		usleep(20);
	}
	return unused;
}

/* Opens of what is known, under a storm of signals: each gives the same number,
 * so that none is left over. */
static int again(int opens)
{
	close(open("/etc/shop/config.yaml", O_RDONLY));
	sigalrm(SA_RESTART, 0);
	knocked = pthread_self();
	pthread_t other;
	pthread_create(&other, NULL, knock, NULL);
	int first = dup(0), wrong = 0;
	close(first);
	for (int i = 0; i < opens && !wrong; i++) {
		char buf[12] = "";
		int fd = open("/etc/shop/config.yaml", O_RDONLY);
		if (read(fd, buf, 11) != 11 || strcmp(buf, "color: blue") || fd != first)
			wrong = printf("open %d gave %d, not %d, and read \"%s\": %s\n", i, fd, first, buf, strerror(errno));
		close(fd);
	}
	knocked = 0;
	pthread_join(other, NULL);
	printf("signals: %d\n", ticks > opens / 10);
	return wrong;
}

/* Calls that are interrupted, and not restarted: the next one has the same
 * registers, all six, but asks something else. The target answers the first
 * only when it has been asked for "/app/turn1", or 2. */
static int turn(void)
{
	struct stat st;
	char path[] = "/app/dir/a", text[3] = "";
	sigalrm(0, 2000);
	SHOW(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0, 0, 0));
	sigalrm(0, 0);
	stat("/app/turn1", &st);
	path[sizeof path - 2] = 'b';
	int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0, 0, 0);
	printf("read %zd: %s\n", read(fd, text, 2), text);

	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};
	int s = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, "10.96.9.9", &a.sin_addr);
	sigalrm(0, 2000);
	SHOW(syscall(SYS_connect, s, &a, sizeof a, 0, 0, 0));
	sigalrm(0, 0);
	stat("/app/turn2", &st);
	inet_pton(AF_INET, "10.96.1.1", &a.sin_addr);
	SHOW(syscall(SYS_connect, s, &a, sizeof a, 0, 0, 0));
	return 0;
}

/* A connection that opens with its first data, and a datagram to an address without a family. */
static int fastopen(const char *ip)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};
	inet_pton(AF_INET, ip, &a.sin_addr);
	char query[32] = "";
	int s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
	SHOW(sendto(s, "x", 1, MSG_FASTOPEN, (void *)&a, sizeof a));
	SHOW(connect(s, (void *)&a, sizeof a));
	a.sin_family = AF_UNSPEC;
	a.sin_port = htons(53);
	SHOW(sendto(u, query, sizeof query, 0, (void *)&a, sizeof a));
	return 0;
}

/* Accepts n connections in each way, and reads a byte of each, under a storm of signals. */
static int accepts(int n, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int l = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 128))
		return perror("listen"), 1;
	sigalrm(0, 200);
	unsigned long sum = 0;
	for (int i = 0, way = 0; i < n; way++) {
		int waits = i % 2, named = way & 1, flags = way & 2 ? SOCK_NONBLOCK | SOCK_CLOEXEC : 0;
		struct sockaddr_in from = {0};
		socklen_t size = sizeof from;
		fcntl(l, F_SETFL, waits ? 0 : O_NONBLOCK);
		int s = accept4(l, named ? (void *)&from : NULL, named ? &size : NULL, flags);
		if (s < 0 && (errno == EINTR || (errno == EAGAIN && !waits)))
			continue;
		if (s <= 2)
			return printf("accept gave %d: %s\n", s, strerror(errno)), 1;
		if (!(fcntl(s, F_GETFL) & O_NONBLOCK) != !flags || !(fcntl(s, F_GETFD) & FD_CLOEXEC) != !flags)
			return printf("accept4 with flags %o gave %o, %o\n", flags, fcntl(s, F_GETFL), fcntl(s, F_GETFD)), 1;
		unsigned char b = 0;
		while (read(s, &b, 1) < 0 && (errno == EINTR || errno == EAGAIN))
			;
		sum += b;
		size = sizeof from;
		while (!named && getpeername(s, (void *)&from, &size))
			if (errno != EINTR)
				return perror("getpeername"), 1;
		if (strcmp(inet_ntoa(from.sin_addr), "192.0.2.7"))
			return printf("from %s\n", inet_ntoa(from.sin_addr)), 1;
		close(s);
		i++;
	}
	sigalrm(0, 0);
	printf("sum %lu\n", sum);
	return 0;
}

/* Forks a child that leaves its session and terminal, tells its pid, and stays. */
static int daemonise(void)
{
	if (fork() == 0) {
		setsid();
		pid_t parent = getpid();
		if (fork() == 0) {
			while (getppid() == parent)
				sched_yield();
			printf("%d\n", getpid());
			fflush(stdout);
			for (;;)
				pause();
		}
		_exit(0);
	}
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";
	if (!strcmp(what, "path")) return path();
	if (!strcmp(what, "xattrs")) return xattrs();
	if (!strcmp(what, "modify")) return modify();
	if (!strcmp(what, "use")) return use(arg);
	if (!strcmp(what, "edge")) return edge();
	if (!strcmp(what, "peer")) return peer(arg);
	if (!strcmp(what, "storm")) return storm(atoi(arg));
	if (!strcmp(what, "again")) return again(atoi(arg));
	if (!strcmp(what, "accepts")) return accepts(atoi(arg), atoi(argv[3]));
	if (!strcmp(what, "turn")) return turn();
	if (!strcmp(what, "fastopen")) return fastopen(arg);
	if (!strcmp(what, "daemonise")) return daemonise();
	if (!strcmp(what, "die")) return raise(atoi(arg)), 1;
	fprintf(stderr, "calls: what?\n");
	return 2;
}

package seccomp

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Spot checks of the table against the numbers Go knows for this machine.
func TestNumbers(t *testing.T) {
	for c, want := range map[Call]int{
		Openat2: unix.SYS_OPENAT2, Statx: unix.SYS_STATX, Faccessat2: unix.SYS_FACCESSAT2, Renameat2: unix.SYS_RENAMEAT2,
		Futimesat: unix.SYS_FUTIMESAT, Utimes: unix.SYS_UTIMES, Lremovexattr: unix.SYS_LREMOVEXATTR, Llistxattr: unix.SYS_LLISTXATTR,
		Getxattr: unix.SYS_GETXATTR, Setxattr: unix.SYS_SETXATTR, InotifyAddWatch: unix.SYS_INOTIFY_ADD_WATCH, Mknodat: unix.SYS_MKNODAT, Mknod: unix.SYS_MKNOD,
		Symlinkat: unix.SYS_SYMLINKAT, Linkat: unix.SYS_LINKAT, Lchown: unix.SYS_LCHOWN, Accept4: unix.SYS_ACCEPT4,
		Recvfrom: unix.SYS_RECVFROM, Uname: unix.SYS_UNAME, Fchmodat2: unix.SYS_FCHMODAT2, Chroot: unix.SYS_CHROOT,
		Statfs: unix.SYS_STATFS, Utime: unix.SYS_UTIME, Creat: unix.SYS_CREAT, Truncate: unix.SYS_TRUNCATE,
		Unlinkat: unix.SYS_UNLINKAT, Rmdir: unix.SYS_RMDIR, Fstat: unix.SYS_FSTAT, Lstat: unix.SYS_LSTAT,
	} {
		if got, _ := AMD64.Number(c); got != want {
			t.Errorf("%v is %d, want %d", c, got, want)
		}
	}
}

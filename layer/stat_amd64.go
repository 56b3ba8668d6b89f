package layer

import (
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

func fillStat(st *unix.Stat_t, a *protocol.Attr) {
	st.Dev, st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Rdev = a.Dev, a.Ino, a.Mode, uint64(a.Nlink), a.UID, a.GID, a.Rdev
	st.Size, st.Blksize, st.Blocks = a.Size, a.Blksize, a.Blocks
	st.Atim, st.Mtim, st.Ctim = unix.NsecToTimespec(a.Atime), unix.NsecToTimespec(a.Mtime), unix.NsecToTimespec(a.Ctime)
}

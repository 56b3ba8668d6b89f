package protocol

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// A ChangeOp is what a Change does. Its number is never reused.
type ChangeOp uint8

const (
	ChangeMkdir   ChangeOp = 1  // mkdir(2): Mode, Umask
	ChangeMknod   ChangeOp = 2  // mknod(2) of a regular file or FIFO: Mode with the type, Umask
	ChangeSymlink ChangeOp = 3  // symlink(2) at Path: Other is its text
	ChangeLink    ChangeOp = 4  // link(2) of Path: Other is the new name; NoFollow
	ChangeUnlink  ChangeOp = 5  // unlink(2)
	ChangeRmdir   ChangeOp = 6  // rmdir(2)
	ChangeRename  ChangeOp = 7  // renameat2(2): Other is the new name; Flags
	ChangeMode    ChangeOp = 8  // chmod(2): Mode; NoFollow
	ChangeOwner   ChangeOp = 9  // chown(2): UID, GID; NoFollow
	ChangeTimes   ChangeOp = 10 // utimensat(2): Times; NoFollow
	ChangeSize    ChangeOp = 11 // truncate(2): Size
)

var changeNames = []string{
	"change", "mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename", "chmod", "chown", "utimens", "truncate",
}

func (o ChangeOp) String() string {
	if int(o) < len(changeNames) {
		return changeNames[o]
	}
	return changeNames[0]
}

// KeepID in place of a UID or GID leaves it as it is.
const KeepID = ^uint32(0)

type (
	// Change asks for what a system call does that changes the target's files by
	// name, in the target's root and as its user. What Op has no use for is zero.
	Change struct {
		Op       ChangeOp   `json:"op"`
		Path     Path       `json:"path"`            // absolute
		Other    Path       `json:"other,omitempty"` // absolute, too, but for a symlink's text
		NoFollow bool       `json:"nofollow,omitempty"`
		Flags    uint32     `json:"flags,omitempty"`
		Mode     uint32     `json:"mode,omitempty"`
		Umask    uint32     `json:"umask,omitempty"` // of who asks
		UID      uint32     `json:"uid,omitempty"`
		GID      uint32     `json:"gid,omitempty"`
		Size     int64      `json:"size,omitempty"`
		Times    []Timespec `json:"times,omitempty"` // atime and mtime; none: now
		// Ino, if set, is what Path must still lead to: else it is ESTALE.
		Dev uint64 `json:"dev,omitempty"`
		Ino uint64 `json:"ino,omitempty"`
		// Handle, if set, is the file instead of Path, of link, chmod, chown and utimens.
		Handle uint64 `json:"handle,omitempty"`
	}
	// ChangeReply: what the client keeps of the changed files is not true any
	// more until it has heard the Expired of this Seq, which may come later.
	ChangeReply struct {
		Seq  uint64 `json:"seq,omitempty"`
		From Path   `json:"from,omitempty"` // of a rename: the two, as resolved
		To   Path   `json:"to,omitempty"`

		Files []FileID `json:"files,omitempty"` // whose attributes have changed, but for directories
	}
)

// A FileID is by which a file is the same one by all its names.
type FileID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// A Timespec is a struct timespec, with the values of Nsec that utimensat(2) has.
type Timespec struct {
	Sec  int64 `json:"sec"`
	Nsec int64 `json:"nsec"`
}

// A Path is a string that need not be UTF-8: such a one is a list of one
// string in JSON, which is the bytes in base64.
type Path string

func (p Path) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(p)) {
		return json.Marshal(string(p))
	}
	return json.Marshal([]string{base64.StdEncoding.EncodeToString([]byte(p))})
}

func (p *Path) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*string)(p))
	}
	var list [][]byte
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list) != 1 {
		return fmt.Errorf("a path is a list of one string, not of %d", len(list))
	}
	*p = Path(list[0])
	return nil
}

type (
	// Statfs asks for the file system that Path is in.
	Statfs struct {
		Path Path `json:"path"`
	}
	// StatfsReply is what statfs(2) tells of it.
	StatfsReply struct {
		Type    int64    `json:"type"`
		Bsize   int64    `json:"bsize"`
		Frsize  int64    `json:"frsize"`
		Blocks  uint64   `json:"blocks"`
		Bfree   uint64   `json:"bfree"`
		Bavail  uint64   `json:"bavail"`
		Files   uint64   `json:"files"`
		Ffree   uint64   `json:"ffree"`
		Fsid    [2]int32 `json:"fsid"`
		Namelen int64    `json:"namelen"`
		Flags   int64    `json:"flags"`
	}
)

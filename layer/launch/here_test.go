package launch

import (
	"os"
	"slices"
	"testing"
)

// A path that is mapped to one of this machine is opened and looked at here; what
// else is done with it fails, and the user is told.
func TestMappedToThisMachine(t *testing.T) {
	w := newWorld(t)
	at := t.TempDir()
	w.policy.Mapping = map[string]string{"^/srv/settings": at}
	w.write(t, "/srv/settings/name", "the target's\n")
	for name, text := range map[string]string{"name": "mine\n", "other": "other\n"} {
		if err := os.WriteFile(at+"/"+name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("name", at+"/link"); err != nil {
		t.Fatal(err)
	}
	r := w.run(t, "sh", "-c", `cd /; cat /srv/settings/name srv/settings/link; ls -l /srv/settings | cut -c1-10; readlink /srv/settings/link
stat -c '%a %s' /srv/settings/name; test -r /srv/settings/name && echo readable; test -L /srv/settings/link && echo link
umask 027; echo new > /srv/settings/new; cat /srv/settings/none; python3 -c '
import os
print(os.stat("/srv/settings/name").st_ino == os.fstat(os.open("/srv/settings/name", 0)).st_ino)
os.rename("/srv/settings/new", "/srv/settings/newer")' 2>&1 | grep -v " File\|^ "`)
	want := "mine\nmine\ntotal 8\nlrwxrwxrwx\n-rw-r-----\n-rw-r-----\nname\n640 5\nreadable\nlink\nTrue\nTraceback (most recent call last):\n" +
		"OSError: [Errno 5] Input/output error: '/srv/settings/new' -> '/srv/settings/newer'\n"
	told := "rename of " + at + "/new fails: it is mapped to this machine (feature.fs.mapping), where mapped files are opened and looked at only"
	if r.out != want || !slices.Equal(r.messages, []string{told}) {
		t.Errorf("%+v\nprints %q\n want %q", r, r.out, want)
	}
	b, err := os.ReadFile(at + "/new")
	st, err2 := os.Stat(at + "/new")
	if string(b) != "new\n" || err != nil || err2 != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("it wrote %q, %v %v %v", b, err, st, err2)
	}
}

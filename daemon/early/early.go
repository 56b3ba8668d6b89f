// Package early is the keeper, before the other packages are initialised: that
// takes time of every start, and memory for as long as a keeper is there. Go
// initialises, of the packages whose imports are, always the one whose path
// comes first: so this one, which imports little, comes before them.
package early

import "mirrord/layer/keeper"

func init() {
	keeper.Main() // does not return in a launcher's keeper
	keeper.NoteInherited()
}

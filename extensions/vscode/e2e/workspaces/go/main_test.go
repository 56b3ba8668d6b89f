package main

import "testing"

func TestAnswer(t *testing.T) {
	if a := answerTo("/x"); a.Path != "/x" {
		t.Errorf("the path is %q", a.Path)
	}
}

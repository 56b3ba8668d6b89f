package main

import (
	"io"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	const events = `{"Action":"start","Package":"p"}
{"Action":"run","Test":"TestB"}
{"Action":"run","Test":"TestB/x"}
{"Action":"attr","Test":"TestB/x","Key":"died","Value":"agent"}
{"Action":"attr","Test":"TestB/x","Key":"kept","Value":"all"}
{"Action":"attr","Test":"TestB/x","Key":"measured","Value":"1 s"}
{"Action":"pass","Test":"TestB/x"}
{"Action":"run","Test":"TestB/y"}
{"Action":"output","Test":"TestB/y","Output":"    y_test.go:1: no answer\n"}
{"Action":"output","Test":"TestB/y","Output":"    --- FAIL: TestB/y (1s)\n"}
{"Action":"fail","Test":"TestB/y"}
{"Action":"fail","Test":"TestB"}
{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"    a_test.go:1: needs root\n"}
{"Action":"skip","Test":"TestA"}
{"Action":"run","Test":"TestC"}
{"Action":"fail","Package":"p"}
`
	var said, table strings.Builder
	rows, err := read(strings.NewReader(events), &said)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(&table, rows, []string{"TestA", "TestB", "TestC", "TestD"}); err == nil || !strings.HasPrefix(err.Error(), "4 ") {
		t.Errorf("of four that are no success: %v", err)
	}
	const want = `| what died or was cut | what the user keeps or is told | measured | result |
|---|---|---|---|
| TestA |  | a_test.go:1: needs root | skipped |
| agent | all | 1 s | passed |
| TestB/y |  | y_test.go:1: no answer | FAILED |
| TestC |  |  | did not end |
| TestD |  |  | did not run |
`
	if table.String() != want {
		t.Errorf("the table is\n%s", &table)
	}
	if !strings.Contains(said.String(), "no answer") {
		t.Errorf("of the failure is said %q", &said)
	}
	if err := write(io.Discard, []*row{{test: "TestSoak", result: "skipped"}}, []string{"TestSoak"}); err != nil {
		t.Error(err)
	}
}

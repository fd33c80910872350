package rules

import "testing"

func TestDataValidate(t *testing.T) {
	rows := []struct {
		name string
		d    Data
		want string
	}{
		{"none", Data{Queue: 1723}, ""},
		{"up to the last queue", Data{Queue: 65534, Queues: 2}, ""},
		{"beside the control connections' queue", Data{Queue: 1724, Queues: 2}, ""},
		{"too many", Data{Queue: 65534, Queues: 3}, "validate data queues: 3 queues from number 65534: use 1 or more, and numbers up to 65535"},
		{"negative", Data{Queues: -1}, "validate data queues: -1 queues from number 0: use 1 or more, and numbers up to 65535"},
		{"over the control connections' queue", Data{Queue: 1720, Queues: 4}, "validate data queues: 1723 is the queue of control connections"},
		{"no bit left", Data{Queue: 1, Queues: 1, Mark: 0xffffffff}, "validate data mark: it leaves no bit free: give one bit"},
	}
	for _, row := range rows {
		got := ""
		if err := (Config{Queue: 1723, Ports: []uint16{1723}, Data: row.d}).Validate(); err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestMarks(t *testing.T) {
	rows := []struct{ mark, call, seen uint32 }{
		{0, DefaultMark, 0x80000000},
		{DefaultMark, DefaultMark, 0x80000000},
		{1, 1, 2},
		{0x80000000, 0x80000000, 1},
		{0x80000003, 0x80000003, 4},
		{0xfffffffe, 0xfffffffe, 1},
		{0x7fffffff, 0x7fffffff, 0x80000000},
	}
	for _, row := range rows {
		if call, seen := (Data{Mark: row.mark}).Marks(); call != row.call || seen != row.seen {
			t.Errorf("%#x: %#x and %#x, want %#x and %#x", row.mark, call, seen, row.call, row.seen)
		}
	}
}

package conformance_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// The twins are small programs that keep every rule, but for the one that fault names. They know nothing of
// Runnel's packages: as a program in another language would, they speak JSON.

type fields = map[string]any

func connect() *nats.Conn {
	nc, err := nats.Connect(os.Getenv("RUNNEL_SERVER"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "twin:", err)
		os.Exit(99)
	}
	return nc
}

func jsonOf(doc any) []byte {
	data, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return data
}

type piece struct {
	Stream string `json:"stream"`
	Data   []byte `json:"data"`
}

type stored struct {
	Pieces   []piece `json:"pieces"`
	Run      string  `json:"run"`
	Chunks   int     `json:"chunks"`
	Tail     []piece `json:"tail"`
	ExitCode int     `json:"exit_code"`
}

// producerTwin submits a command and follows it.
func producerTwin(fault string, command []string) int {
	nc := connect()
	defer nc.Close()
	id := strings.ToLower(strconv.FormatInt(time.Now().UnixNano(), 36)) + "x"
	live, _ := nc.SubscribeSync("runnel.live.default." + id + ".>")
	show := func(pieces []piece) {
		for _, p := range pieces {
			if fault == "bytes" {
				p.Data = bytes.ToValidUTF8(p.Data, []byte("?"))
			}
			if p.Stream == "stdout" {
				os.Stdout.Write(p.Data)
			} else {
				os.Stderr.Write(p.Data)
			}
		}
	}
	get := func(subject string) (doc stored, ok bool) {
		m, err := nc.Request("$JS.API.DIRECT.GET.RUNNEL_REPLY."+subject, nil, 5*time.Second)
		if err != nil || m.Header.Get("Status") != "" {
			return doc, false
		}
		return doc, json.Unmarshal(m.Data, &doc) == nil
	}
	submit := func() bool {
		subject := "runnel.invoke.subprocess.default.normal.0.default." + id
		doc := fields{"invocation_id": id, "runtime_kind": "subprocess", "command": command}
		m := &nats.Msg{Subject: subject, Header: nats.Header{"Runnel-Version": {"1.0"}}}
		switch fault {
		case "subject":
			m.Subject = "runnel.invoke.subprocess." + id
		case "body":
			doc["invocation_id"] = "another"
		case "headers":
			m.Header.Set("Nats-Msg-Id", id)
		}
		m.Data = jsonOf(doc)
		if fault == "confirmed" {
			_ = nc.PublishMsg(m)
			return true
		}
		ack, err := nc.RequestMsg(m, 5*time.Second)
		return err == nil && !bytes.Contains(ack.Data, []byte(`"error"`))
	}
	for !submit() {
		if fault == "again" {
			id += "y"
		}
		time.Sleep(100 * time.Millisecond)
	}
	run, n, begun := "", 1, map[string]bool{}
	base := "runnel.reply.default." + id + "."
	fill := func(last int) {
		for ; n <= last; n++ {
			if doc, ok := get(base + run + "." + strconv.Itoa(n)); ok && fault != "gap" {
				show(doc.Pieces)
			}
		}
	}
	var held []piece
	for {
		m, err := live.NextMsg(500 * time.Millisecond)
		if err != nil && fault == "lost" {
			continue
		}
		var doc stored
		last := false
		if err != nil {
			if doc, last = get(base + "result"); !last {
				continue
			}
		} else {
			d := json.NewDecoder(bytes.NewReader(m.Data))
			if fault == "newer" {
				d.DisallowUnknownFields()
				if bytes.Contains(m.Data, []byte("new_in")) {
					return 99
				}
			}
			if err := d.Decode(&doc); err != nil {
				return 99
			}
		}
		if !last {
			t := strings.Split(m.Subject, ".")
			if last = t[len(t)-1] == "result"; !last {
				number, _ := strconv.Atoi(t[5])
				if t[4] != run && !begun[t[4]] {
					run, n = t[4], 1
					begun[run] = true
				}
				fill(number - 1)
				if number == n {
					n++
					if fault == "live" {
						held = append(held, doc.Pieces...)
					} else {
						show(doc.Pieces)
					}
				}
				continue
			}
		}
		show(held)
		if doc.Run != run && fault != "restart" {
			run, n = doc.Run, 1
		}
		fill(doc.Chunks)
		if fault != "tail" {
			show(doc.Tail)
		}
		if fault == "exit" {
			return 0
		}
		return doc.ExitCode
	}
}

type request struct {
	Invocation struct {
		ID      string   `json:"invocation_id"`
		Command []string `json:"command"`
		Stdin   struct {
			Data []byte `json:"data"`
		} `json:"stdin"`
	} `json:"invocation"`
	Run       string  `json:"run"`
	Heartbeat float64 `json:"heartbeat_seconds"`
	Window    int     `json:"window"`
}

type control struct {
	Type string `json:"type"`
	ID   string `json:"invocation_id"`
	Run  string `json:"run"`
	N    int    `json:"n"`
}

// responderTwin answers one request after the other.
func responderTwin(fault, name string) int {
	nc := connect()
	defer nc.Close()
	requests, _ := nc.QueueSubscribeSync("runnel.manual."+name, "runnel")
	for {
		m, err := requests.NextMsg(time.Minute)
		if err != nil {
			return 0
		}
		var q request
		if err := json.Unmarshal(m.Data, &q); err != nil || q.Run == "" {
			if fault == "strangers" {
				return 99
			}
			continue
		}
		if fault == "newer" && bytes.Contains(m.Data, []byte("new_in")) {
			continue
		}
		answer(nc, fault, m.Reply, q)
	}
}

func answer(nc *nats.Conn, fault, to string, q request) {
	inbox := nc.NewInbox()
	controls, _ := nc.SubscribeSync(inbox)
	defer func() { _ = controls.Unsubscribe() }()
	acked, stopped, ended := 0, false, false
	say := func(doc fields) {
		doc["invocation_id"], doc["run"] = q.Invocation.ID, q.Run
		if fault == "ids" && doc["type"] == "outcome" {
			doc["run"] = "aaaaaaaa"
		}
		_ = nc.PublishMsg(&nats.Msg{Subject: to, Reply: inbox, Data: jsonOf(doc)})
	}
	hear := func(d time.Duration) bool {
		m, err := controls.NextMsg(d)
		if err != nil {
			return false
		}
		var c control
		if json.Unmarshal(m.Data, &c) != nil || c.Run != q.Run && fault != "foreign" {
			return true
		}
		switch c.Type {
		case "ack":
			acked = max(acked, c.N)
		case "stop":
			stopped = fault != "stop"
		case "end":
			ended = true
		}
		return true
	}
	beat := time.Duration(q.Heartbeat * float64(time.Second) / 3)
	if fault == "heartbeat" {
		beat = time.Hour
	}
	var sent [][]byte
	output := func(data []byte) {
		window := q.Window
		if fault == "window" {
			window = 1000
		}
		sent = append(sent, data)
		for len(sent)-acked > window {
			hear(100 * time.Millisecond)
		}
		say(fields{"type": "output", "n": len(sent), "pieces": []fields{{"stream": "stdout", "data": base64.StdEncoding.EncodeToString(data)}}})
	}
	status, code := "succeeded", 0
	command := q.Invocation.Command
	switch command[0] {
	case "echo":
		data := q.Invocation.Stdin.Data
		if fault == "output" {
			data = bytes.ToValidUTF8(data, nil)
		}
		for ; len(data) > 0; data = data[min(len(data), 65536):] {
			output(data[:min(len(data), 65536)])
		}
	case "fail":
		status = "failed"
		code, _ = strconv.Atoi(command[1])
		if fault == "exit" {
			code = 1
		}
	case "flood":
		n, _ := strconv.Atoi(command[1])
		for i := range n {
			output(bytes.Repeat([]byte{byte(i)}, 65536))
		}
	case "hold":
		output([]byte("holding\n"))
		for last := time.Now(); !stopped && !ended; hear(50 * time.Millisecond) {
			if time.Since(last) > beat {
				last = time.Now()
				say(fields{"type": "heartbeat"})
			}
		}
		status, code = "failed", 143
	}
	for tries := 0; acked < len(sent) && !ended && tries < 50; tries++ {
		before := acked
		if hear(200 * time.Millisecond); acked == before && fault != "resend" {
			for i := acked; i < len(sent); i++ {
				say(fields{"type": "output", "n": i + 1, "pieces": []fields{{"stream": "stdout", "data": base64.StdEncoding.EncodeToString(sent[i])}}})
			}
		}
	}
	if fault == "outcome" {
		return
	}
	outcome := fields{"status": status, "exit_code": code}
	for tries := 0; !ended && tries < 50; tries++ {
		say(fields{"type": "outcome", "n": len(sent), "outcome": outcome})
		if fault == "repeat" {
			return
		}
		hear(500 * time.Millisecond)
	}
}

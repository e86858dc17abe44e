package runnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

// start returns a client of a NATS server and a worker inside this process, and what ends them. A program of yours
// connects to a server of yours instead, as in the example of New.
func start() (*runnel.Client, func()) {
	ctx := context.Background()
	node, err := embedded.Start(ctx, embedded.Config{})
	if err != nil {
		log.Fatal(err)
	}
	nc, err := node.Connect(runnel.ConnectOptions("example")...)
	if err != nil {
		log.Fatal(err)
	}
	client, err := runnel.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	return client, func() {
		nc.Close()
		if err := node.Close(ctx); err != nil {
			log.Fatal(err)
		}
	}
}

// sh is a subprocess that runs a shell script.
func sh(script string) runnel.Invocation {
	return runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", script}}
}

func ExampleNew() {
	ctx := context.Background()
	node, err := embedded.Start(ctx, embedded.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)

	// With a server of your own: nats.Connect("nats://127.0.0.1:4222", runnel.ConnectOptions("my program")...)
	nc, err := node.Connect(runnel.ConnectOptions("my program")...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := runnel.New(nc, runnel.WithTenant("mine"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Tenant())
	// Output: mine
}

func ExampleWithFollowConn() {
	ctx := context.Background()
	node, err := embedded.Start(ctx, embedded.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)
	// Much output on one connection delays no answer on the other.
	asking, err := node.Connect(runnel.ConnectOptions("asking")...)
	if err != nil {
		log.Fatal(err)
	}
	defer asking.Close()
	following, err := node.Connect(runnel.ConnectOptions("following")...)
	if err != nil {
		log.Fatal(err)
	}
	defer following.Close()

	client, err := runnel.New(asking, runnel.WithFollowConn(following), runnel.WithPrefix("runnel"), runnel.WithReplicas(1))
	if err != nil {
		log.Fatal(err)
	}
	result, err := client.Run(ctx, sh("echo much"), runnel.RunOptions{Stdout: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Status)
	// Output:
	// much
	// succeeded
}

func ExampleClient_Run() {
	client, stop := start()
	defer stop()

	result, err := client.Run(context.Background(), sh("tr a-z A-Z; exit 3"), runnel.RunOptions{
		Stdin:  strings.NewReader("hello\n"),
		Stdout: os.Stdout,
	})
	if err != nil {
		log.Fatal(err) // we do not know how it ended; how it ended is in the result
	}
	fmt.Println(result.Status, result.Reason, *result.ExitCode)
	// Output:
	// HELLO
	// failed exit 3
}

func ExampleClient_Submit() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	inv := sh("echo hi")
	inv.ID = "order-17" // a chosen id makes it safe to submit twice
	receipt, err := client.Submit(ctx, inv)
	if err != nil {
		log.Fatal(err)
	}
	again, err := client.Submit(ctx, inv)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(receipt.ID, receipt.Existed, again.Existed)

	inv.Command = []string{"true"}
	_, err = client.Submit(ctx, inv)
	fmt.Println(errors.Is(err, runnel.ErrIDInUse))
	// Output:
	// order-17 false true
	// true
}

// What is refused says everything that is wrong with it, by name.
func ExampleValidationError() {
	client, stop := start()
	defer stop()

	_, err := client.Submit(context.Background(), runnel.Invocation{Kind: runnel.KindSubprocess, Lane: "urgent"})
	var bad *runnel.ValidationError
	if errors.As(err, &bad) {
		for _, f := range bad.Fields {
			fmt.Println(f.Field)
		}
	}
	// Output:
	// lane
	// command
}

func ExampleClient_SubmitReader() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	// Three megabytes do not fit into a message: they go to the input bucket by themselves.
	large := bytes.NewReader(make([]byte, 3<<20))
	receipt, err := client.SubmitReader(ctx, sh("wc -c"), large)
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range client.Watch(ctx, receipt.ID) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Type == runnel.EventOutput {
			fmt.Println(strings.TrimSpace(string(event.Output.Data)))
		}
	}
	// Output: 3145728
}

func ExampleClient_SubmitAll() {
	client, stop := start()
	defer stop()

	invs := func(yield func(runnel.Invocation) bool) {
		for i := range 3 {
			inv := sh("true")
			inv.ID = fmt.Sprintf("job-%d", i)
			if !yield(inv) {
				return
			}
		}
	}
	for receipt, err := range client.SubmitAll(context.Background(), invs) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.ID)
	}
	// Output:
	// job-0
	// job-1
	// job-2
}

func ExampleClient_RunAll() {
	client, stop := start()
	defer stop()

	invs := slices.Values([]runnel.Invocation{sh("exit 1"), sh("exit 2"), sh("exit 4")})
	sum := 0
	for result, err := range client.RunAll(context.Background(), invs) { // in the order in which they end
		if err != nil {
			log.Fatal(err)
		}
		sum += *result.ExitCode
	}
	fmt.Println(sum)
	// Output: 7
}

func ExampleClient_Watch() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	receipt, err := client.Submit(ctx, sh("echo out; echo err >&2"))
	if err != nil {
		log.Fatal(err)
	}
	text := map[runnel.Stream]string{}
	for event, err := range client.Watch(ctx, receipt.ID) {
		if err != nil {
			log.Fatal(err)
		}
		switch event.Type {
		case runnel.EventOutput:
			text[event.Output.Stream] += string(event.Output.Data)
		case runnel.EventRestarted:
			clear(text) // what was shown so far does not count
		case runnel.EventResult:
			fmt.Printf("%q %q %s\n", text[runnel.Stdout], text[runnel.Stderr], event.Result.Status)
		}
	}
	// Output: "out\n" "err\n" succeeded
}

func ExampleClient_WatchRun() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	inv := sh("echo try $RUNNEL_ATTEMPT; test $RUNNEL_ATTEMPT = 2")
	inv.Retry = &runnel.Retry{Attempts: 2, DelaySeconds: 0.01}
	result, err := client.Run(ctx, inv, runnel.RunOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range client.WatchRun(ctx, result.ID, runnel.AllRuns) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Type == runnel.EventOutput {
			fmt.Print(string(event.Output.Data))
		}
	}
	// Output:
	// try 1
	// try 2
}

func ExampleClient_Wait() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	for _, inv := range []runnel.Invocation{{ID: "slow"}, {ID: "quick"}} {
		inv.Kind, inv.Command = runnel.KindSubprocess, []string{"sleep", "1"}
		if inv.ID == "quick" {
			inv.Command = []string{"true"}
		}
		if _, err := client.Submit(ctx, inv); err != nil {
			log.Fatal(err)
		}
	}
	for result, err := range client.Wait(ctx, "slow", "unknown", "quick") {
		switch {
		case errors.Is(err, runnel.ErrNotFound):
			// It comes as soon as that is proven.
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println(result.ID, result.Status)
		}
	}
	// Output:
	// quick succeeded
	// slow succeeded
}

func ExampleClient_Get() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	result, err := client.Run(ctx, sh("exit 3"), runnel.RunOptions{})
	if err != nil {
		log.Fatal(err)
	}
	info, err := client.Get(ctx, result.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Kind, info.Pool, info.Lane, info.Status, info.Result.Reason, info.Attempt)
	_, err = client.Get(ctx, "unknown")
	fmt.Println(errors.Is(err, runnel.ErrNotFound))
	// Output:
	// subprocess default normal failed exit 1
	// true
}

func ExampleClient_List() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	for _, night := range []string{"1", "2", "3"} {
		inv := sh("true")
		inv.ID, inv.Labels = "backup-"+night, map[string]string{"night": night}
		if _, err := client.Run(ctx, inv, runnel.RunOptions{}); err != nil {
			log.Fatal(err)
		}
	}
	show := func(o runnel.ListOptions) {
		for info, err := range client.List(ctx, o) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(info.ID, info.Status)
		}
	}
	show(runnel.ListOptions{Limit: 2})
	show(runnel.ListOptions{Labels: map[string]string{"night": "1"}})
	// Output:
	// backup-3 succeeded
	// backup-2 succeeded
	// backup-1 succeeded
}

func ExampleClient_Resolve() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	for _, id := range []string{"report-monday", "report-tuesday"} {
		inv := sh("true")
		inv.ID = id
		if _, err := client.Submit(ctx, inv); err != nil {
			log.Fatal(err)
		}
	}
	id, err := client.Resolve(ctx, "report-m")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)
	_, err = client.Resolve(ctx, "report")
	var many *runnel.AmbiguousError
	if errors.As(err, &many) {
		fmt.Println(many)
	}
	// Output:
	// report-monday
	// "report" is the beginning of report-monday, report-tuesday: give more of it
}

func ExampleClient_Cancel() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	receipt, err := client.Submit(ctx, sh("echo started; sleep 60"))
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range client.Watch(ctx, receipt.ID) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Type == runnel.EventOutput {
			break // it runs
		}
	}
	report, err := client.Cancel(ctx, receipt.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Was, report.Status, report.AlreadyEnded)
	again, err := client.Cancel(ctx, receipt.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(again.Was, again.Status, again.AlreadyEnded)
	// Output:
	// running cancelled false
	// cancelled cancelled true
}

func ExampleClient_Withdraw() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	inv := runnel.Invocation{ID: "nobody-does-this", Kind: "teleport"}
	if _, err := client.Submit(ctx, inv); err != nil {
		log.Fatal(err)
	}
	served, err := client.Served(ctx, inv.Kind, inv.Pool)
	if err != nil {
		log.Fatal(err)
	}
	if !served {
		if err := client.Withdraw(ctx, inv.ID); err != nil {
			log.Fatal(err)
		}
	}
	_, err = client.Get(ctx, inv.ID)
	fmt.Println(served, errors.Is(err, runnel.ErrNotFound))
	// Output: false true
}

func ExampleClient_Workers() {
	client, stop := start()
	defer stop()

	workers, err := client.Workers(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, w := range workers {
		fmt.Println(w.Pool, slices.Contains(w.Kinds, runnel.KindSubprocess))
	}
	// Output: default true
}

func ExampleClient_Served() {
	client, stop := start()
	defer stop()

	for _, kind := range []runnel.Kind{runnel.KindSubprocess, "teleport"} {
		served, err := client.Served(context.Background(), kind, runnel.DefaultPool)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(kind, served)
	}
	// Output:
	// subprocess true
	// teleport false
}

func ExampleClient_Artifacts() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	result, err := client.Run(ctx, sh("cd $RUNNEL_ARTIFACTS && mkdir logs && echo one >logs/a && echo two >b"), runnel.RunOptions{})
	if err != nil {
		log.Fatal(err)
	}
	files, err := client.Artifacts(ctx, result.ID)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files {
		fmt.Println(f.Path, f.Size)
	}
	// Output:
	// b 4
	// logs/a 4
}

func ExampleClient_Download() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	result, err := client.Run(ctx, sh("cd $RUNNEL_ARTIFACTS && mkdir logs && echo one >logs/a && echo two >b"), runnel.RunOptions{})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	written, err := client.Download(ctx, result.ID, dir, "logs")
	if err != nil {
		log.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "logs", "a"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(len(written), " ", string(data))
	// Output: 1 one
}

func ExampleClient_OpenArtifact() {
	client, stop := start()
	defer stop()
	ctx := context.Background()

	result, err := client.Run(ctx, sh("echo content >$RUNNEL_ARTIFACTS/file"), runnel.RunOptions{})
	if err != nil {
		log.Fatal(err)
	}
	file, err := client.OpenArtifact(ctx, result.ID, "file")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	if _, err := io.Copy(os.Stdout, file); err != nil {
		log.Fatal(err) // also if the content is not what was stored
	}
	// Output: content
}

func ExampleClient_Ensure() {
	ctx := context.Background()
	node, err := embedded.Start(ctx, embedded.Config{NoWorker: true})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)
	nc, err := node.Connect(runnel.ConnectOptions("setup")...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := runnel.New(nc, runnel.WithPrefix("second-fleet"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Submit(ctx, sh("true")); errors.Is(err, runnel.ErrNoStream) {
		fmt.Println("not set up yet")
	}
	drift, err := client.Ensure(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range drift {
		log.Print(d) // on a small disk, that a stream may take less
	}
	_, err = client.Submit(ctx, sh("true"))
	fmt.Println("accepted:", err == nil)
	// Output:
	// not set up yet
	// accepted: true
}

func ExampleParseInvocation() {
	inv, err := runnel.ParseInvocation([]byte(`{"invocation_id": "a", "runtime_kind": "subprocess", "command": ["true"]}`))
	fmt.Println(inv.ID, inv.Command, err)
	_, err = runnel.ParseInvocation([]byte(`{"runtime_kind": "subprocess", "Command": ["true"]}`))
	fmt.Println(err != nil)
	// Output:
	// a [true] <nil>
	// true
}

func ExampleValidID() {
	fmt.Println(runnel.ValidID(runnel.NewID()), runnel.ValidID("../x"), runnel.ValidName("My Tenant"))
	// Output: true false false
}

func ExampleClient_Inspect() {
	ctx := context.Background()
	node, err := embedded.Start(ctx, embedded.Config{NoWorker: true})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)
	nc, err := node.Connect(runnel.ConnectOptions("inspect")...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := runnel.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	for _, stream := range client.Inspect(ctx) {
		fmt.Println(stream.Stream, stream.Messages, stream.Err, stream.Write)
	}
	// Output:
	// RUNNEL_INVOKE 0 <nil> <nil>
	// RUNNEL_REPLY 0 <nil> <nil>
	// RUNNEL_DEAD 0 <nil> <nil>
	// KV_RUNNEL_WORKERS 0 <nil> <nil>
}

//go:build linux || darwin

package embedded_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

// A test of a program that uses Runnel needs nothing installed.
func ExampleStart() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node, err := embedded.Start(ctx, embedded.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)
	nc, err := node.Connect()
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := runnel.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	result, err := client.Run(ctx, runnel.Invocation{
		Kind:    runnel.KindSubprocess,
		Command: []string{"echo", "hello"},
	}, runnel.RunOptions{Stdout: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Status)
	// Output:
	// hello
	// succeeded
}

// Other processes connect to a listener, with its token.
func ExampleNode_Token() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node, err := embedded.Start(ctx, embedded.Config{Listen: "127.0.0.1:0", NoWorker: true})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)
	nc, err := nats.Connect(node.URL(), nats.Token(node.Token()))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	fmt.Println(nc.IsConnected())
	// Output: true
}

// A program can be a worker of a fleet whose server is elsewhere.
func ExampleWork() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	node, err := embedded.Start(ctx, embedded.Config{NoWorker: true}) // stands for that server
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(context.Background())
	var conns [2]*nats.Conn
	for i := range conns {
		if conns[i], err = node.Connect(runnel.ConnectOptions("my worker")...); err != nil {
			log.Fatal(err)
		}
		defer conns[i].Close()
	}
	workDir, err := os.MkdirTemp("", "work-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(workDir)
	err = embedded.Work(ctx, conns[0], conns[1], embedded.WorkerConfig{
		Name:    "mine",
		WorkDir: workDir,
		Ready: func(name string) {
			fmt.Println("ready", name)
			stop() // drains
		},
	})
	fmt.Println(err)
	// Output:
	// ready mine
	// <nil>
}

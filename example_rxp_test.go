package runnel_test

import (
	"fmt"
	"time"

	"github.com/runnel-project/runnel"
)

// An invocation of RxP becomes one of ours, and its result one of RxP.
func Example_rxP() {
	asked, err := runnel.ParseRxP([]byte(`{
		"schema_version": "0.1", "contract_kind": "runtime_invocation",
		"invocation_id": "nightly-7", "runtime_name": "unit tests", "runtime_kind": "subprocess",
		"working_directory": ".", "command": ["go", "test", "./..."], "timeout_seconds": 900,
		"output_result_path": "out/result.json"
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	inv, paths := asked.Invocation()
	fmt.Println(inv.ID, inv.Kind, inv.TimeoutSeconds, paths.OutputResult)

	code := 0
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	result := runnel.Result{ // what Client.Run returns
		ID: inv.ID, Name: inv.Name, Kind: inv.Kind, Status: runnel.StatusSucceeded, ExitCode: &code, StartedAt: at, FinishedAt: at.Add(time.Second),
	}
	text, err := runnel.EncodeRxP(result.RxP(runnel.RxPCapture{Stdout: "out/stdout.txt", Stderr: "out/stderr.txt"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(runnel.ValidateRxP(text))

	_, err = runnel.ParseRxP([]byte(`{"schema_version": "0.2"}`))
	fmt.Println(err)
	// Output:
	// nightly-7 subprocess 900 out/result.json
	// <nil>
	// decode runtime_invocation: schema_version: "0.2" is not known: this program reads "0.1"
}

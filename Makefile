# Everything that proves or builds Runnel. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
GO          ?= go
# One tally line per package, every failure in full, figures, and the skips by name.
TALLY       = $(GO) run ./integration/tally
STATICCHECK = $(GO) tool -modfile=.ci/tools.mod staticcheck
FUZZTIME    ?= 4s
# Rounds per crash point of the soak: 20 is the long form, CI runs a few.
ROUNDS      ?= 20
IMAGE       ?= runnel/worker:latest
# Re-executed children of a race build would each sleep a second at exit.
export GORACE ?= atexit_sleep_ms=0

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: build
build: ## build submit and worker into bin/
	CGO_ENABLED=0 $(GO) build -o bin/ ./cmd/...

.PHONY: image
image: ## build the worker's image and load it into Docker as IMAGE, or write it to OUT
	CGO_ENABLED=0 GOOS=linux $(GO) build -o bin/linux/worker ./cmd/worker
	$(GO) run ./integration/image/load -name $(IMAGE) $(if $(OUT),-o $(OUT)) bin/linux/worker

.PHONY: test
test: ## run the tests
	$(GO) test -json ./... | $(TALLY)

.PHONY: race
race: needs ## run the tests under the race detector, with the short soak
	$(GO) test -race -timeout 12m -parallel 5 -json ./... | $(TALLY)

.PHONY: lint
lint: ## gofmt, vet, staticcheck, and vet for the other systems
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out" >&2; exit 1; }
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(STATICCHECK) ./...
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 $(GO) vet ./cmd/submit ./cmd/worker
	CGO_ENABLED=0 GOOS=windows GOARCH=amd64 $(GO) vet ./cmd/submit

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (4s)
	CGO_ENABLED=0 .ci/fuzz $(FUZZTIME)

.PHONY: bench
bench: build ## Go benchmarks, then the figures of `submit bench` beside their limits
	$(GO) test -run '^$$' -bench . -benchmem ./...
	for work in noop latency exec; do bin/submit bench $$work --limit --json; done

.PHONY: golden
golden: ## rewrite the goldens; read the diff before you commit it
	$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update
	git status --short

.PHONY: bench-containers
bench-containers: ## what a container costs: docker run, fresh, warm and a process, in turns
	$(GO) test ./integration -run '^$$' -bench ContainerTrue -benchtime 200x -timeout 30m
	$(GO) test ./integration -run '^$$' -bench ContainerOutput -benchtime 5x -timeout 30m
	$(GO) test ./integration -run '^$$' -bench ContainerJobs -benchtime 3s -timeout 30m

.PHONY: bench-rivals
bench-rivals: ## Runnel beside asynq, River and Celery, in turns; not part of ci. ARGS, as in ARGS='-rounds 5'
	cd integration/rivals && CGO_ENABLED=0 $(GO) run . $(ARGS)

.PHONY: agent
agent: ## rebuild the agent of warm containers, which is kept in the repository
	$(GO) test ./internal/runner/container/agent -run '^TestProgramsAreCurrent$$' -count=1 -rebuild

.PHONY: cluster
cluster: ## the tests on three NATS nodes
	$(GO) test -race -timeout 20m -count=1 -run 'Cluster' -json ./internal/queue/... ./integration | $(TALLY)

.PHONY: soak
soak: needs ## kill everything at every step, ROUNDS (20) times each, and print the table
	RUNNEL_ROUNDS=$(ROUNDS) $(GO) test -race -timeout 3h -parallel 5 -count=1 -run 'Soak|Race|Kill|Stream|WorkersContainer' -json ./integration ./integration/containers | $(TALLY)

.PHONY: needs
needs:
	@for tool in git cc $(GO); do command -v $$tool >/dev/null || { echo "make ci needs make, git, a C compiler (for the race detector) and Go: $$tool is missing" >&2; exit 1; }; done
	@[ "$$($(GO) env CGO_ENABLED)" = 1 ] || { echo "the race detector needs CGO_ENABLED=1 and a C compiler" >&2; exit 1; }

.PHONY: ci
ci: ## what a change must pass: lint, build, race, fuzz, and the count of skips
	@$(MAKE) --no-print-directory needs
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory race

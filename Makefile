# Swell. `make help` lists what there is to do.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CACHE   := $(or $(SWELL_CACHE),$(HOME)/.cache/swell)
export SWELL_CACHE := $(CACHE)
export PATH := $(CACHE)/bin:/usr/sbin:$(PATH)
BIN     := bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
ORT     := $(CACHE)/onnxruntime/1.24.1/libonnxruntime.so.1
COSIGN  := $(CACHE)/bin/cosign
NFPM    := $(CACHE)/bin/nfpm
# go test, which says at the end what was skipped and why.
TEST    := go tool -modfile=.ci/tools.mod gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg --
LINT    := go tool -modfile=.ci/lint.mod golangci-lint
PROGRAMS := swell-hub swellctl swell-agent swell-sim
CONSOLE := cloud/console/dist/index.html

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z][a-z0-9-]*:.*## /{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- run

.PHONY: run
run: build ## Start a hub and a small factory on this machine, narrate the whole loop, stay up
	@$(BIN)/swell-sim demo --stay

.PHONY: demo
demo: build ## The same on free ports; ends with the figures as JSON when the loop has closed
	@$(BIN)/swell-sim demo

.PHONY: build
build: setup $(ORT) $(CONSOLE) ## Build the console and the four programs into bin/
	@mkdir -p $(BIN)
	@echo "building $(PROGRAMS) (the first time takes some minutes)"
	@go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cloud/cmd/... ./agent/cmd/... ./simulator/cmd/...

.PHONY: setup
setup:
	@.ci/ensure build

$(ORT):
	@models/runtime/fetch-onnxruntime.sh

$(CONSOLE): cloud/console/package-lock.json protocol/openapi.yaml $(shell find cloud/console/src cloud/console/public cloud/console/index.html -type f 2>/dev/null)
	@echo "building the console"
	@cd cloud/console && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build
	@touch $@

.PHONY: console
console: $(CONSOLE) ## Build the web console

## ---- test

.PHONY: test
test: testsetup ## Set up what the tests need and run everything
	@$(TEST) -timeout 25m ./...
	@$(MAKE) --no-print-directory console-test

.PHONY: testsetup
testsetup: $(ORT) $(COSIGN) $(NFPM) $(CONSOLE)
	@.ci/ensure test

$(COSIGN):
	@.ci/ensure build
	@echo "building the cosign CLI, the oracle of the signing tests (once, some minutes)"
	@GOBIN=$(CACHE)/bin go install github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5

$(NFPM):
	@GOBIN=$(CACHE)/bin go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

.PHONY: console-test
console-test: build testsetup ## Unit tests of the console, then every page in a real browser
	@cd cloud/console && npm test --silent && npm run --silent lint && npm run --silent story
	@$(BIN)/swell-sim demo --browse cloud/console/e2e

.PHONY: race
race: testsetup ## The concurrent packages under the race detector
	@$(TEST) -race -timeout 25m ./protocol/... ./agent/... ./firmware/... ./cloud/broker/... ./cloud/dispatch/... ./cloud/fleet/... ./cloud/ingest/... ./cloud/auth/... ./cloud/api/...

.PHONY: lint
lint: ## golangci-lint
	@$(LINT) run --timeout 15m ./...

.PHONY: verify
verify: ## Generated files are up to date, formatting, vet, dead code
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these"; exit 1; }
	@go vet ./...
	@go mod verify >/dev/null
	@.ci/generated
	@.ci/deadcode

.PHONY: ci
ci: ## What CI runs: lint, verify, test, race
	@$(MAKE) --no-print-directory testsetup
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory verify
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory race

## ---- measure (each prints its figures as one line of JSON at the end)

.PHONY: bench-swap
bench-swap: $(ORT) ## Windows lost and p99 latency over 100 model swaps under load
	@SWELL_BENCH=1 go test -v -count=1 -run '^TestSwapFigures$$' ./agent/pipeline 2>&1 | .ci/figures

.PHONY: bench-agent
bench-agent: $(ORT) ## Memory and CPU of an agent at 1 kHz × 8 channels with an autoencoder every 100 ms
	@.ci/ensure test
	@SWELL_BENCH=1 go test -v -count=1 -run '^TestAgentFigures$$' ./agent/cmd/swell-agent 2>&1 | .ci/figures

.PHONY: bench-ingest
bench-ingest: ## Values per CPU-second from MQTT to durable and queryable, beside JSON
	@go test -run '^$$' -bench '^BenchmarkIngest' -benchtime 1x ./cloud/ingest 2>&1 | .ci/figures

.PHONY: bench-detectors
bench-detectors: $(ORT) ## Each kind of detector by itself on the public SKAB recordings, without hub and devices
	@SWELL_BENCH=1 go test -v -count=1 -timeout 20m -run '^TestSKAB$$' ./models/evaluate 2>&1 | .ci/figures

.PHONY: bench-skab
bench-skab: build ## F1, FAR and MAR of the devices' verdicts on the public SKAB recordings
	@simulator/backtest/skab.sh $(BIN)/swell-sim defaults | .ci/figures

.PHONY: bench-tune
bench-tune: build ## The same with settings that swell-sim tune chooses: without labels, and by those of other recordings
	@simulator/backtest/skab.sh $(BIN)/swell-sim tune | .ci/figures

.PHONY: bench-rollout
bench-rollout: ## Cost of a rollout's decision over 1 000 to 1 000 000 devices, whole and after one report
	@SWELL_BENCH=1 go test -v -count=1 -timeout 20m -run '^TestRolloutFigures$$' ./cloud/rollout 2>&1 | .ci/figures

.PHONY: bench-gates
bench-gates: build ## False alarms and time to stop of the shadow gate, beside what others do; draws docs/plots/gates.svg
	@$(BIN)/swell-sim gates --plot docs/plots/gates.svg | .ci/figures

.PHONY: bench-million
bench-million: build ## One rollout on 1 000 000 packed devices in one process, and how far bad releases come
	@$(BIN)/swell-sim million | .ci/figures

.PHONY: sim
sim: build ## 200 seeds of a night on which everything goes wrong, 1000 virtual devices each; ends with 1 when a property broke
	@$(BIN)/swell-sim explore --seeds 200 | .ci/figures

.PHONY: bench-powercut
bench-powercut: ## Power cuts, torn writes, lost fsync, full disk and bit rot at every write of every kind of update
	@go test -v -count=1 -run '^TestPowerCutAtEveryWriteOfEveryStory' ./agent/apply 2>&1 | .ci/figures

.PHONY: bench-harm
bench-harm: ## How far two bad releases come on 10 000 virtual devices, and how soon they are stopped
	@SWELL_BENCH=1 go test -v -count=1 -timeout 20m -run '^TestHarmFigures$$' ./simulator/scenario 2>&1 | .ci/figures

.PHONY: bench-nab
bench-nab: build ## The standard score of the devices' verdicts on the public NAB streams
	@simulator/backtest/nab.sh $(BIN)/swell-sim | .ci/figures

.PHONY: bench-train
bench-train: $(ORT) ## Samples per CPU-second of training beside PyTorch on four nets
	@.ci/ensure torch || echo "without PyTorch beside it: install python3-torch and libopenblas0-pthread by hand" >&2
	@SWELL_BENCH=1 go test -v -count=1 -run '^TestTrainingFigures$$' ./models/train 2>&1 | .ci/figures

.PHONY: bench-vision
bench-vision: build ## Accuracy of the devices' verdicts on the public NEU images of steel, and what training them costs
	@simulator/backtest/vision.sh $(BIN)/swell-sim | .ci/figures

.PHONY: bench-night
bench-night: $(ORT) ## Time and memory of a night of 10, 30 and 100 device classes, and of one that two processes share
	@SWELL_BENCH=1 go test -v -count=1 -timeout 40m -run '^TestNightFigures$$' ./cloud/hub 2>&1 | .ci/figures

## ---- ship

.PHONY: packages
packages: build $(NFPM) ## .deb packages of hub and agent, in dist/
	@deploy/packages/build.sh dist

.PHONY: shots
shots: build testsetup ## Screenshots of the console for the README, from a demonstration
	@$(BIN)/swell-sim demo --browse cloud/console/e2e --shots docs/shots

.PHONY: clean
clean: ## Remove what was built (caches outside the repository stay)
	@rm -rf $(BIN) run cloud/console/node_modules dist

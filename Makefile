# Blockmover. `make` lists the targets.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

SUITES := node scripts/run-suites.mjs
TYPESCRIPT := $(shell find native services -name '*.ts' -not -path 'services/gen/*' 2>/dev/null)
PROTO := $(shell find proto -name '*.proto') buf.yaml buf.gen.yaml

.PHONY: help setup build lint format typecheck test interop fault bench demo clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

setup: node_modules/.setup ## install packages and build the addon, where they are out of date
	@npm run --silent build:native

node_modules/.setup: package.json package-lock.json
	npm ci
	@touch $@

build: setup dist/.built ## compile everything, into build/ and dist/

dist/.built: node_modules/.setup tsconfig.json tsconfig.build.json $(TYPESCRIPT) $(PROTO)
	rm -rf dist
	npm run --silent build:ts
	@touch $@

lint: node_modules/.setup ## eslint, prettier, and the wire contracts: style, and no breaking change
	npm run --silent lint

format: node_modules/.setup ## let prettier rewrite what it would complain about
	npx prettier --write .

typecheck: node_modules/.setup ## the compiler's opinion, tests included
	npm run --silent typecheck

test: build ## unit and integration tests
	$(SUITES) unit integration

interop: build ## tests with the real Kopia and grpcurl (needs Go 1.25 to build them)
	scripts/build-kopia.sh
	scripts/build-grpcurl.sh
	$(SUITES) interop

fault: build ## tests with failing disks, full repositories and killed processes
	$(SUITES) fault

bench: build ## measurements, with ratios to a dd beside them
	node --import tsx test/bench/main.ts

demo: build ## back up, change, back up again, restore and compare a volume
	node --import tsx scripts/demo.ts

clean: ## remove what was built, keep node_modules and .cache
	rm -rf build dist services/gen

# make demo   the whole experiment on mock galaxies, in demo/      (a few minutes on 2 cores)
# make test   lint, types and tests; those on Slurm where one answers (make test-slurm: those alone)
# make test-other-math   tests of networks trained on the spot, with other math libraries' rounding  (three minutes)
# make bench  the benchmarks of docs/benchmarks.md, into bench-results/ (ten minutes on an idle machine); BESIDE=FOLDER:
#             reading beside another checkout of this project, such as an earlier commit's
# make campaign   the same at full size, in campaign/: 2,802 galaxies     (about an hour on 2 cores)
# make campaign-gap   every tracer on every suite, and on all but one   (an hour more)
# make networks   those for observed galaxies that come with the project, in networks/ and kinmass/networks (some hours on 2 cores)
# make docs   the site, into build/site, with the tutorials that are run for it  (six minutes on 2 cores the first time)
# make tutorials   these alone, in build/tutorials
# make demo-clean-views   the demo's three tracers once more, without instrumental noise
# make lock   requirements.lock anew, after a change of pyproject.toml
# make clean  removes demo/

PYTHON ?= python3
RANKS ?= 2
GALAXIES ?= 300
STEPS ?= 1200
VIEWS ?= 4
# Fits that run side by side.
FITS ?= 2
BIN := .venv/bin
DEMO := demo
SUITES := bursty quiet middle
# The suites of `gen mock`, and of `bench.equilibrium`, on which networks for observed galaxies are trained.
MOCK_FAMILY := bursty quiet middle early
SECOND_FAMILY := cuspy einasto cored
COMMA := ,
SPACE := $(subst ,, )
# Each of the three main networks is trained once per seed; `make demo SEEDS="0 1 2"` gives intervals that hold the
# scatter of training too.
SEEDS ?= 0
# Two fits run side by side, one thread each: faster than one fit on two threads.
export OMP_NUM_THREADS ?= 1
export NUMBA_NUM_THREADS ?= 1
# All of them see the same free memory: each takes its share.
export KINMASS_JOBS_AT_ONCE ?= $(FITS)

.PHONY: demo campaign demo-mocks demo-maps demo-train announce-train demo-tables demo-report demo-clean-views gap campaign-gap networks bench bench-dynamics-env test test-other-math test-slurm lock lint types setup clean docs tutorials

setup: .venv/.installed

# What pip writes into .venv names this folder. In one that was moved commands would not start, and those of a copy run
# the first one's code: they are told where they are now.
MOVED := $(shell { read -r was <.venv/.installed; } 2>/dev/null && ! test "$$was" -ef .venv && echo "$$was")
ifneq ($(MOVED),)
.PHONY: .venv/.installed
endif

.venv/.installed: requirements.lock pyproject.toml
	@echo "== setting up .venv (once; a few minutes) =="
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0] + "; name one: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -z "$(MOVED)" || grep -rlIF "$(MOVED)" .venv/bin | tr '\n' '\0' | xargs -0r sed -i "s#$(MOVED)#$(CURDIR)/.venv#g"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)/.venv" > $@

# Every step goes on where it stood; what is done is not done again. The commands tell by content what that is, not make by
# times, which clocks and copies change: no file is ever called `fit`. A fit with other STEPS in the same folder is refused.
TRACERS := both gas stars
SEEDED := $(foreach s,$(filter-out 0,$(SEEDS)),$(TRACERS:%=%-seed$s))
RUNS := $(TRACERS) $(SEEDED) $(SUITES:%=both-on-%)
demo: setup
	@for step in mocks maps train tables report; do \
	  began=$$(date +%s); $(MAKE) --no-print-directory -j $(FITS) demo-$$step || exit; \
	  echo "   ($$step: $$(( $$(date +%s) - began )) s)"; done
	@echo; echo "Dispersion of log10 M(<r), test galaxies of all suites [dex, mean over radii]:"
	@$(BIN)/python -m eval show $(DEMO)/results
	@echo "$(DEMO)/results/table.csv"; echo "$(DEMO)/results/report.html"

# Stopped, it goes on where it stood. VIEWS and STEPS, given on the command line, stand in the place of these.
CAMPAIGN_VIEWS := $(if $(filter command line,$(origin VIEWS)),$(VIEWS),16)
CAMPAIGN_STEPS := $(if $(filter command line,$(origin STEPS)),$(STEPS),9600)
campaign:
	@$(MAKE) --no-print-directory demo DEMO=campaign GALAXIES=934 VIEWS=$(CAMPAIGN_VIEWS) STEPS=$(CAMPAIGN_STEPS)

demo-mocks:
	@echo "== 1/5 making $(GALAXIES) mock galaxies in each of $(SUITES) =="
	@$(BIN)/mpiexec -n $(RANKS) $(BIN)/python -m gen mock --out $(DEMO)/mocks --galaxies $(GALAXIES)

demo-maps:
	@echo "== 2/5 projecting them into maps, $(RANKS) MPI ranks =="
	@$(BIN)/mpiexec -n $(RANKS) $(BIN)/python -m gen maps $(foreach suite,$(SUITES),$(DEMO)/mocks/$(suite)/$(suite).yaml) --out $(DEMO)/maps.zarr --views $(VIEWS) --pixels 32

demo-train: announce-train $(RUNS:%=$(DEMO)/runs/%/fit)
announce-train:
	@echo "== 3/5 training: three tracers on all suites, and both tracers on each suite alone, $(FITS) at a time =="

demo-tables:
	@echo "== 4/5 evaluating every network on every suite =="
	@$(BIN)/python -m eval tables $(DEMO)/runs/* --store $(DEMO)/maps.zarr --out $(DEMO)/results

demo-report:
	@echo "== 5/5 figures and report =="
	@(cd $(DEMO)/results && test -s report.html && cksum *.csv | cmp -s - .reported) || { \
	  $(BIN)/python -m eval report $(DEMO)/results && cd $(DEMO)/results && cksum *.csv > .reported; }

FIT = $(BIN)/python -m train fit --store $(DEMO)/maps.zarr
# Of both tracers begins with what the fits of each by itself have learnt, which is worth more than all else that was tried.
$(DEMO)/runs/gas/fit $(DEMO)/runs/stars/fit: $(DEMO)/runs/%/fit:
	@$(FIT) --tracer $* --steps $(STEPS) --out $(@D)
$(DEMO)/runs/both/fit: $(DEMO)/runs/gas/fit $(DEMO)/runs/stars/fit
	@$(FIT) --tracer both --start-from $(^D) --steps $(STEPS) --out $(@D)
$(filter-out $(DEMO)/runs/both-%,$(SEEDED:%=$(DEMO)/runs/%/fit)): $(DEMO)/runs/%/fit:
	@run=$*; $(FIT) --tracer $${run%-seed*} --seed $${run##*-seed} --steps $(STEPS) --out $(@D)
$(filter $(DEMO)/runs/both-%,$(SEEDED:%=$(DEMO)/runs/%/fit)): $(DEMO)/runs/both-seed%/fit: $(DEMO)/runs/gas-seed%/fit $(DEMO)/runs/stars-seed%/fit
	@$(FIT) --tracer both --start-from $(^D) --seed $* --steps $(STEPS) --out $(@D)
$(DEMO)/runs/both-on-%/fit:
	@$(FIT) --tracer both --suites $* --steps $$(( $(STEPS) / 3 )) --out $(@D)

# What a change of simulation costs, and what closes the gap: every tracer on every suite, on all suites but one, and
# there once more with --robust.
PAIRS := bursty+middle bursty+quiet middle+quiet
GAP := $(foreach t,gas stars both,$(foreach s,$(SUITES) $(PAIRS),$(DEMO)/gap/$t-on-$s/fit) \
         $(foreach s,$(PAIRS),$(DEMO)/gap/robust-$t-on-$s/fit))
$(GAP): $(DEMO)/gap/%/fit:
	@run=$*; suites=$${run#*-on-}; parts=$$(echo $$suites | tr + '\n' | wc -l); tracer=$${run%%-on-*}; \
	case $$run in robust-*) more=--robust;; *) more=;; esac; \
	$(FIT) --tracer $${tracer#robust-} --suites $$(echo $$suites | tr + ,) --steps $$(( $(STEPS) * parts / 3 )) $$more --out $(@D)

# Networks for observed galaxies, which come with the project (docs/howto/galaxy.md): all seven suites of both generators,
# seen in any way, and once more without those of each generator, which sets the intervals of galaxies of neither. Every
# step goes on where it stood; what is copied knows no path of this machine.
SHIPPED := $(foreach m,0 1,any/member-$(m)/run.json any/member-$(m)/model.pt) any/calibration.json any/ood.pt any/unseen.json
networks: setup
	@$(BIN)/mpiexec -n $(RANKS) $(BIN)/python -m gen mock --out networks/mocks --suites $(subst $(SPACE),$(COMMA),$(MOCK_FAMILY)) --galaxies 934
	@$(BIN)/python -m bench.equilibrium --out networks/second --galaxies 934 --seed 1
	@$(BIN)/mpiexec -n $(RANKS) $(BIN)/python -m gen maps networks/mocks/*/*.yaml networks/second/*/*.yaml --out networks/maps.zarr --views 16 --pixels 32
	@cd networks && ../$(BIN)/kinmass launch --cluster local --at-once $(FITS) --store maps.zarr --tracer any \
	  --suites $(subst $(SPACE),$(COMMA),$(MOCK_FAMILY) $(SECOND_FAMILY)) --instrument survey --scale-dex 0.2 --heat 0.2 --radius-dex 0.06 \
	  --leave-one-suite-out --families $(subst $(SPACE),+,$(MOCK_FAMILY)) $(subst $(SPACE),+,$(SECOND_FAMILY)) --members 2 \
	  --steps 24000 --round-steps 600 --out any && ../$(BIN)/kinmass status any --wait
	@rm -rf kinmass/networks/any && cd networks && cp --parents $(SHIPPED) ../kinmass/networks/
	@sed -i 's#"$(CURDIR)/networks/#"#g' kinmass/networks/any/member-*/run.json

gap: demo-mocks demo-maps
	@$(MAKE) --no-print-directory -j $(FITS) $(GAP)
	$(BIN)/python -m eval tables $(DEMO)/gap --store $(DEMO)/maps.zarr --out $(DEMO)/results-gap --no-classical --report

campaign-gap:
	@$(MAKE) --no-print-directory gap DEMO=campaign GALAXIES=934 VIEWS=$(CAMPAIGN_VIEWS) STEPS=$(CAMPAIGN_STEPS)

# The same three tracers seen without noise, beside the noisy ones in one table.
CLEAN := $(DEMO)/clean/both/fit $(DEMO)/clean/gas/fit $(DEMO)/clean/stars/fit
$(CLEAN): $(DEMO)/clean/%/fit:
	@$(FIT) --tracer $* --instrument clean --steps $(STEPS) --out $(@D)

demo-clean-views: demo
	$(MAKE) --no-print-directory -j $(FITS) $(CLEAN)
	$(BIN)/python -m eval tables $(DEMO)/runs/* $(DEMO)/clean/* --store $(DEMO)/maps.zarr --out $(DEMO)/results-clean
	$(BIN)/python -m eval report $(DEMO)/results-clean

# requirements.lock anew, from pyproject.toml, in an environment of its own.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check ".[mpi,dev,docs]"
	build/lock/bin/python -m pip freeze --exclude kinmass --all | grep -v "^pip==" | sed "s/+cpu$$//" > requirements.lock

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Processes of tests read what the first has compiled of the project, whatever the environment says.
test test-other-math test-slurm: export PYTHONDONTWRITEBYTECODE :=
# Four files at a time, on two cores: tests of MPI, DDP, Dask and of what is killed wait for each other as often as they compute.
test: lint types
	$(BIN)/python -m pytest -n 4 --dist loadfile

# Another processor's rounding, as far as one can have it on this: the tests whose networks are trained on the spot.
OTHER_MATH := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Prescott \
  NPY_DISABLE_CPU_FEATURES=X86_V3 NUMBA_CPU_NAME=generic
TRAINED := tests/eval/observed/test_observed.py tests/eval/report tests/train/run
test-other-math: setup
	$(OTHER_MATH) $(BIN)/python -m pytest -n 4 --dist loadfile $(TRAINED)

# On a real Slurm: the one that SLURM_CONF leads to, such as that of `sudo slurm/testbed.sh up`.
test-slurm: setup
	KINMASS_NEED_SLURM=1 $(BIN)/python -m pytest tests/test_slurm.py $(ONLY)

# The peers that bench/ measures beside ours get a .venv of their own.
BENCH := bench-results
$(BENCH)/.venv/.installed: requirements.lock bench/requirements.txt
	@$(PYTHON) -m venv $(BENCH)/.venv
	$(BENCH)/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r bench/requirements.txt
	@touch $@

bench: SHELL := /bin/bash
bench: $(BENCH)/.venv/.installed
	@set -o pipefail; for name in projection scaling "reading $(BESIDE:%=--beside %)" "domain $(BESIDE:%=--beside %)" ranks store "campaign --measure" training "evaluation $(BESIDE:%=--beside %)"; do \
	  echo "== bench.$$name =="; $(BENCH)/.venv/bin/python -m bench.$$name --out $(BENCH) || exit; \
	done | tee $(BENCH)/benchmarks.txt

# JamPy and MgeFit, for `.venv-dynamics/bin/python -m bench.dynamics`; use only, as their licence says.
bench-dynamics-env: .venv-dynamics/.installed
.venv-dynamics/.installed: requirements.lock bench/requirements-dynamics.txt
	@$(PYTHON) -m venv .venv-dynamics
	.venv-dynamics/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r bench/requirements-dynamics.txt
	@touch $@

# Each tutorial is run anew when it has changed. They go on with what earlier ones made, so they run one after another.
TUTORIALS := 1-maps 2-training 3-calibration 4-galaxy 5-campaign
PAGES := $(TUTORIALS:%=build/tutorials/%.md)
$(PAGES): build/tutorials/%.md: docs/tutorials/%.py handbook/tutorials.py | setup
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m handbook.tutorials $< --out build/tutorials
build/tutorials/2-training.md: | build/tutorials/1-maps.md
build/tutorials/3-calibration.md: | build/tutorials/2-training.md
build/tutorials/4-galaxy.md: | build/tutorials/3-calibration.md
build/tutorials/5-campaign.md: | build/tutorials/4-galaxy.md

tutorials: $(PAGES)

docs: tutorials
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site"

clean:
	rm -rf $(DEMO)

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: setup repro explore sd15 test lint docs fresh
setup: .venv/installed

# The lock is complete, so --no-deps loses nothing and keeps the gigabytes of CUDA packages that a plain torch asks for
# off machines that cannot use them. `make CUDA=1 ...` installs them.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	pip install $(if $(CUDA),,--no-deps) -r requirements.lock
	pip install --no-deps -e .
	@python -c "import torch" || { echo "error: this torch needs CUDA libraries. Point PIP_EXTRA_INDEX_URL at PyTorch's" \
		"index of CPU wheels and delete .venv, or run make CUDA=1 on a machine with a GPU."; exit 1; }
	touch $@

repro: setup
	dvc repro

# Page in the browser, docs/how-to/explore.md. It opens once PCA is there; the pipeline leaves the other spaces meanwhile,
# and ends with the page.
explore: setup
	dvc repro pca
	@mkdir -p .scratch
	@setsid nice dvc repro edit@pca photo_encoder edit references > .scratch/explore.log 2>&1 & \
		trap "kill -- -$$! 2> /dev/null" EXIT INT TERM; w2wpp explore

# Stable Diffusion 1.5, docs/how-to/sd15.md. SET has further settings, such as SET="portraits.path=my/photos".
sd15: setup
	python -m w2wpp.run.profile profiles/sd15.yaml $(SET)
	dvc repro

test: setup
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: setup
	ruff check .
	ruff format --check .
	lint-imports
	mypy

# The site, in .scratch/site; a broken link, or a page that no menu has, fails. The lock has the versions of
# requirements.lock where both have a package, so it changes nothing in the environment.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

.venv/docs: .venv/installed requirements-docs.lock
	pip install --no-deps -r requirements-docs.lock
	touch $@

# Up to date means: no stage would run for any reason but outputs that a fresh clone does not have.
fresh: setup
	@mkdir -p .scratch
	@dvc repro --dry --allow-missing > .scratch/fresh.log || { cat .scratch/fresh.log; exit 1; }
	@! grep "Running stage" .scratch/fresh.log || { echo "error: stale stages; run dvc repro and commit"; exit 1; }

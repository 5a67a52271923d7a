# The two commands of the README, and the benches behind its numbers.

.PHONY: all demo test bench bench-live bench-flush clean

all:
	@contrib/build-dependencies build
	cargo build --release

# Builds, runs a day and then live traffic of a simulated exchange, and leaves graphs to look at.
demo:
	@contrib/build-dependencies build
	cargo build --release
	@cargo run --release --quiet -- demo

# Everything that can fail: unit and integration tests with a real rrdcached.
test:
	@contrib/build-dependencies test
	cargo test

bench:
	@contrib/build-dependencies build
	cargo bench --bench path

# The highest rates without loss, over UDP, with a real rrdcached; five to eight minutes.
bench-live:
	@contrib/build-dependencies test
	cargo bench --bench live

# Updates a second, through rrdcached and into files, beside their limits; under ten minutes. Needs
# 25 GB below the temporary directory (TMPDIR), which are given back.
bench-flush:
	@contrib/build-dependencies test
	cargo bench --bench flush

clean:
	cargo clean
	rm -rf demo

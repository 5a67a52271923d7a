# The two commands of the README, and the benches behind its numbers.

.PHONY: all demo test bench bench-live bench-flush soak clean

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

# Updates a second, through rrdcached and into files, beside their limits; about twelve minutes. Needs
# 25 GB below the temporary directory (TMPDIR), which are given back, also after Ctrl-C.
bench-flush:
	@contrib/build-dependencies test
	cargo bench --bench flush

# Twenty minutes of 200,000 samples a second while rrdcached is killed every two; then every file is
# held against what was sent. Needs 5 GB below the temporary directory (TMPDIR), which are given
# back. SOAK="--minutes 3 --members 20 --rate 20000" for less.
soak:
	@contrib/build-dependencies test
	cargo bench --bench soak -- $(SOAK)

clean:
	cargo clean
	rm -rf demo

//! End to end, in a sandbox that stands: `scripts/e2e.sh system`.

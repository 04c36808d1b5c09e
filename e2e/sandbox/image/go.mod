module hawser.dev/e2e/sandbox/image

go 1.24.0

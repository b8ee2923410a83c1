module streams

go 1.22

require (
	github.com/klauspost/compress v1.17.9
	github.com/pierrec/lz4/v4 v4.1.21
)

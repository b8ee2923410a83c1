// Makes ../streams.json: streams by the very libraries that Kopia compresses with, for decoders to be tested against.
//
//	go run . > ../streams.json
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

type stream struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Length int    `json:"length"`
	SHA256 string `json:"sha256"`
	Stream string `json:"stream"` // base64
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// words has short and long matches near and far; runs has long repeats of a few offsets; noise does not compress.
func words(n int) []byte {
	r := rand.New(rand.NewSource(1))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%s%d ", []string{"block", "volume", "chunk", "pack", "epoch", "snapshot"}[r.Intn(6)], r.Intn(12))
	}
	return b.Bytes()[:n]
}

func runs(n int) []byte {
	r := rand.New(rand.NewSource(2))
	out := make([]byte, 0, n+100000)
	for len(out) < n {
		unit := make([]byte, 1+r.Intn(300))
		r.Read(unit)
		for i := 1 + r.Intn(400); i > 0; i-- {
			out = append(out, unit...)
			if r.Intn(40) == 0 {
				out = append(out, byte(r.Intn(256)))
			}
		}
	}
	return out[:n]
}

func noise(n int) []byte {
	out := make([]byte, n)
	rand.New(rand.NewSource(3)).Read(out)
	return out
}

func main() {
	var all []stream
	add := func(kind, name string, data, compressed []byte) {
		sum := sha256.Sum256(data)
		all = append(all, stream{name, kind, len(data), hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(compressed)})
	}
	addWriter := func(kind, name string, data []byte, make func(io.Writer) io.WriteCloser) {
		var b bytes.Buffer
		w := make(&b)
		_, err := w.Write(data)
		check(err)
		check(w.Close())
		add(kind, name, data, b.Bytes())
	}
	inputs := []struct {
		name string
		data []byte
	}{
		{"empty", nil}, {"one byte", []byte{7}}, {"words", words(40000)}, {"runs", runs(400000)},
		{"noise", noise(3000)}, {"zeros", make([]byte, 5<<20)},
	}
	for _, in := range inputs {
		for _, variant := range []struct {
			name    string
			options []s2.WriterOption
			most    int // bytes of input, to keep the file small
		}{
			{"default", nil, 8 << 20},
			{"better", []s2.WriterOption{s2.WriterBetterCompression()}, 8 << 20},
			{"best", []s2.WriterOption{s2.WriterBestCompression()}, 8 << 20},
			{"snappy compatible", []s2.WriterOption{s2.WriterSnappyCompat()}, 1 << 20},
			{"padded", []s2.WriterOption{s2.WriterPadding(1000)}, 1 << 20},
			{"small blocks with index", []s2.WriterOption{s2.WriterBlockSize(8 << 10), s2.WriterAddIndex()}, 50000},
			{"stored", []s2.WriterOption{s2.WriterUncompressed()}, 5000},
		} {
			if len(in.data) > variant.most || (len(in.data) == 0 && variant.most == 50000) {
				// An index alone, without the identifier: no stream for klauspost's own reader either.
				continue
			}
			addWriter("s2", in.name+", "+variant.name, in.data, func(w io.Writer) io.WriteCloser {
				return s2.NewWriter(w, append(variant.options, s2.WriterConcurrency(1))...)
			})
		}
		addWriter("lz4", in.name, in.data, func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) })
		addWriter("lz4", in.name+", small blocks", in.data, func(w io.Writer) io.WriteCloser {
			z := lz4.NewWriter(w) // no block checksums: pierrec's are not those of the format
			check(z.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.CompressionLevelOption(lz4.Level5)))
			return z
		})
		for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedBetterCompression} {
			addWriter("zstd", fmt.Sprintf("%s, %s", in.name, level), in.data, func(w io.Writer) io.WriteCloser {
				z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
				check(err)
				return z
			})
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	check(encoder.Encode(all))
}

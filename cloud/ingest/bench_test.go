package ingest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/broker"
	mqtt "github.com/swellfleet/swell/cloud/broker/embedded"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/embedded"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// The bench of `make bench-ingest`: what a hub spends to take values from MQTT
// until they are durable and can be queried. Devices run in a process of their
// own, so only the hub's CPU counts.
const (
	benchDevices = 32
	benchSignals = 8
	benchRows    = 125  // so that a block is 1000 values
	benchBlocks  = 1000 // a device, so 32 million values
	benchSingles = 2000 // JSON messages of one value a device
	benchWindow  = 16   // messages of a device in flight
)

func benchID(device int) topic.ID {
	return topic.ID{Site: "bench", Node: fmt.Sprintf("node-%d", device)}
}

// benchBlock is block n of a device: noisy waves in steps of a millivolt.
func benchBlock(n int) telemetry.Block {
	b := telemetry.Block{Boot: 1, Seq: uint64(n), Stream: telemetry.Raw, First: uint64(n * benchRows), T0: start + int64(n*benchRows)*1e6, RateHz: 1000}
	noise := uint32(n + 1)
	for s := range benchSignals {
		values := make([]float32, benchRows)
		for i := range values {
			noise = noise*1664525 + 1013904223
			v := 2*math.Sin(2*math.Pi*float64(s+1)*float64(i)/100) + float64(noise>>24)/2560
			values[i] = float32(math.Round(v*1000) / 1000)
		}
		b.Signals = append(b.Signals, telemetry.Signal{Name: fmt.Sprintf("signal%d", s), Unit: "V", Codec: telemetry.RawFloat, Values: values})
	}
	return b
}

// cpu is the processor time of this process so far, in seconds.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkIngest prints a table and, last, one line of JSON. Run it with
// -benchtime 1x.
func BenchmarkIngest(b *testing.B) {
	for b.Loop() {
		inside := benchInProcess(b)
		over := benchOverMQTT(b, "blocks", benchDevices*benchBlocks*benchRows*benchSignals, func(head *embedded.Store) (func(topic.ID, []byte, func(error)), func()) {
			in := newIngest(b, Config{Head: head})
			return func(id topic.ID, p []byte, done func(error)) { in.Handle(context.Background(), id, p, done) }, func() { in.Close() }
		})
		single := benchOverMQTT(b, "json", benchDevices*benchSingles, singles)
		fmt.Printf("\nblocks of 1000 float32, handed over in process   %12.0f values per CPU-second\n", inside)
		fmt.Printf("blocks of 1000 float32, MQTT QoS 1 to durable    %12.0f values per CPU-second\n", over)
		fmt.Printf("JSON, one value a message, MQTT QoS 1 to durable %12.0f values per CPU-second\n", single)
		fmt.Printf("{\"values_per_cpu_s\":%.0f,\"values_per_cpu_s_in_process\":%.0f,\"values_per_cpu_s_json_singles\":%.0f}\n", over, inside, single)
	}
}

func benchHead(b *testing.B) *embedded.Store {
	head, err := embedded.Open(embedded.Config{Dir: b.TempDir(), Log: quiet, KeepHead: true, MinFreeBytes: 1})
	if err != nil {
		b.Fatal(err)
	}
	return head
}

// benchValues counts what can be queried.
func benchValues(b *testing.B, head *embedded.Store) int64 {
	var n int64
	for d := range benchDevices {
		r, err := head.Query(context.Background(), series.Query{ID: benchID(d), Stream: "raw", From: start, To: start + 1e15, MaxPoints: 100})
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range r.Signals {
			for _, c := range s.Count {
				n += c
			}
		}
	}
	return n
}

func benchInProcess(b *testing.B) float64 {
	var payloads [][]byte
	for n := range benchBlocks {
		p, err := benchBlock(n).Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		payloads = append(payloads, p)
	}
	head := benchHead(b)
	in := newIngest(b, Config{Head: head})
	before := cpu()
	var wait sync.WaitGroup
	for d := range benchDevices {
		wait.Add(len(payloads))
		go func() {
			for _, p := range payloads {
				in.Handle(context.Background(), benchID(d), p, func(err error) {
					if err != nil {
						b.Error(err)
					}
					wait.Done()
				})
			}
		}()
	}
	wait.Wait()
	used := cpu() - before
	const want = benchDevices * benchBlocks * benchRows * benchSignals
	if n := benchValues(b, head); n != want {
		b.Fatalf("%d values can be queried, want %d", n, want)
	}
	in.Close()
	before = cpu()
	head.Close() // background writing that is left counts too
	return want / (used + cpu() - before)
}

// benchOverMQTT runs the embedded broker, with the devices in a child process.
func benchOverMQTT(b *testing.B, kind string, want int, open func(head *embedded.Store) (func(topic.ID, []byte, func(error)), func())) float64 {
	head := benchHead(b)
	handle, stop := open(head)
	br, err := mqtt.New(mqtt.Config{Listen: "127.0.0.1:0", Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	if err := br.Start(context.Background(), benchHandler{handle}); err != nil {
		b.Fatal(err)
	}
	devices := exec.Command(os.Args[0])
	devices.Env = append(os.Environ(), benchEnv+"="+br.Addr().String(), benchEnv+"_KIND="+kind)
	devices.Stderr = os.Stderr
	before := cpu()
	if err := devices.Run(); err != nil {
		b.Fatalf("devices: %v", err)
	}
	used := cpu() - before
	if n := benchValues(b, head); n != int64(want) {
		b.Fatalf("%s: %d values can be queried, want %d", kind, n, want)
	}
	before = cpu()
	br.Close()
	stop()
	head.Close()
	return float64(want) / (used + cpu() - before)
}

type benchHandler struct {
	handle func(topic.ID, []byte, func(error))
}

func (h benchHandler) Message(id topic.ID, _ topic.Topic, p []byte, done func(error)) {
	h.handle(id, p, done)
}
func (benchHandler) Connected(topic.ID)          {}
func (benchHandler) Disconnected(topic.ID)       {}
func (benchHandler) Subscribed(topic.ID, string) {}

var _ broker.Handler = benchHandler{}

// singles is what the same hub would do with one value a message: JSON, the
// same store, the same sharing of disk flushes.
func singles(head *embedded.Store) (handle func(topic.ID, []byte, func(error)), stop func()) {
	type message struct {
		Signal string  `json:"signal"`
		Time   int64   `json:"time"`
		Value  float64 `json:"value"`
	}
	type waiting struct {
		batch series.Batch
		done  func(error)
	}
	queue := make(chan waiting, maxGroup)
	var seq atomic.Uint64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for w := range queue {
				group := []waiting{w}
				for len(group) < maxGroup && len(queue) > 0 {
					group = append(group, <-queue)
				}
				var batches []series.Batch
				for _, w := range group {
					batches = append(batches, w.batch)
				}
				err := head.Append(context.Background(), batches)
				for _, w := range group {
					w.done(err)
				}
			}
		})
	}
	return func(id topic.ID, p []byte, done func(error)) {
		var m message
		if err := json.Unmarshal(p, &m); err != nil {
			done(err)
			return
		}
		n := seq.Add(1)
		queue <- waiting{series.Batch{
			ID: id, Stream: "raw", Boot: 1, Seq: n, First: n, T0: m.Time, RateHz: 1,
			Columns: []series.Column{{Name: m.Signal, Kind: series.Float64, Float64: []float64{m.Value}}},
		}, done}
	}, func() { close(queue); workers.Wait() }
}

const benchEnv = "SWELL_INGEST_DEVICES"

func TestMain(m *testing.M) {
	if addr := os.Getenv(benchEnv); addr != "" {
		if err := runDevices(addr, os.Getenv(benchEnv+"_KIND")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runDevices publishes what each device has and waits for every acknowledgement.
func runDevices(addr, kind string) error {
	errs := make(chan error, benchDevices)
	for d := range benchDevices {
		go func() { errs <- runDevice(addr, kind, benchID(d)) }()
	}
	for range benchDevices {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// runDevice speaks just enough MQTT 3.1.1: no client library may be used here.
func runDevice(addr, kind string, id topic.ID) error {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	text := func(s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s }
	packet := func(first byte, body string) []byte {
		return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
	}
	if _, err := conn.Write(packet(0x10, text("MQTT")+"\x04\x02\x00\x3c"+text(id.String()))); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	ack := make([]byte, 4)
	if _, err := io.ReadFull(in, ack); err != nil || ack[3] != 0 {
		return fmt.Errorf("CONNACK % x: %w", ack, err)
	}
	count := benchBlocks
	if kind == "json" {
		count = benchSingles
	}
	window := make(chan struct{}, benchWindow)
	sent := make(chan error, 1)
	go func() {
		out := bufio.NewWriterSize(conn, 64<<10)
		for n := range count {
			select {
			case window <- struct{}{}:
			default:
				if err := out.Flush(); err != nil {
					sent <- err
					return
				}
				window <- struct{}{}
			}
			var body strings.Builder
			body.WriteString(text(topic.Of(id, topic.Blocks)))
			body.Write(binary.BigEndian.AppendUint16(nil, uint16(n%65535+1)))
			if kind == "json" {
				fmt.Fprintf(&body, `{"signal":"signal%d","time":%d,"value":%s}`, n%8, start+int64(n)*1e6, strconv.FormatFloat(float64(n)/1000, 'f', 3, 64))
			} else {
				p, err := benchBlock(n).Append(nil)
				if err != nil {
					sent <- err
					return
				}
				body.Write(p)
			}
			if _, err := out.Write(packet(0x32, body.String())); err != nil {
				sent <- err
				return
			}
		}
		sent <- out.Flush()
	}()
	for range count {
		if _, err := io.ReadFull(in, ack); err != nil || ack[0] != 0x40 {
			return fmt.Errorf("PUBACK % x: %w", ack, err)
		}
		<-window
	}
	return <-sent
}

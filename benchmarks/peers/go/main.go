// The same job on net/http: check, start a goroutine, answer 202.
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	maxBody     = 64 << 10
	maxDuration = 86_400
	waiting     = 600 * time.Second // as in benchmarks/handlers.py
	stamp       = "2006-01-02T15:04:05.000Z"
	flushing    = 100 * time.Millisecond
)

type submission struct {
	Name     string  `json:"name"`
	Kind     *string `json:"kind"`
	Duration *int    `json:"duration"`
}

type accepted struct {
	TaskID  string `json:"task_id"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// buffered collects lines, and writes them ten times a second.
type buffered struct {
	mutex sync.Mutex
	out   *bufio.Writer
}

func (b *buffered) Write(line []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.out.Write(line)
}

func (b *buffered) flush() {
	for range time.Tick(flushing) {
		b.mutex.Lock()
		b.out.Flush()
		b.mutex.Unlock()
	}
}

func say(format string, fields ...any) {
	log.Printf(time.Now().UTC().Format(stamp)+" info "+format, fields...)
}

func run(id, name, kind string, duration int) {
	say("Task started task_id=%s name=%s kind=%s attempt=1", id, name, kind)
	switch kind {
	case "simulate":
		for step := 1; step <= duration; step++ {
			time.Sleep(time.Second)
			say("Task progress task_id=%s step=%d total=%d", id, step, duration)
		}
	case "wait":
		time.Sleep(waiting)
	}
	say("Task completed task_id=%s name=%s", id, name)
}

func refuse(w http.ResponseWriter, sentence string) {
	answer(w, http.StatusBadRequest, map[string]string{"error": sentence})
}

func answer(w http.ResponseWriter, status int, body any) {
	encoded, _ := json.Marshal(body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encoded)
}

func submit(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, "The body cannot be read")
		return
	}
	var given *submission
	if err := json.Unmarshal(body, &given); err != nil || given == nil {
		refuse(w, "The body must be a JSON object with fields of the right types")
		return
	}
	if given.Name == "" || len(given.Name) > 255 {
		refuse(w, "Field 'name' is required (non-empty string)")
		return
	}
	kind, duration := "simulate", 3
	if given.Kind != nil {
		kind = *given.Kind
	}
	if given.Duration != nil {
		duration = *given.Duration
	}
	if duration < 0 || duration > maxDuration {
		refuse(w, "Field 'duration' must be from 0 to 86400")
		return
	}
	message := "Task will run in background"
	switch kind {
	case "simulate":
		message = fmt.Sprintf("Task will run for %d seconds in background", duration)
	case "noop", "wait":
	default:
		refuse(w, "Field 'kind' is none that there is")
		return
	}
	random := make([]byte, 10)
	rand.Read(random)
	id := fmt.Sprintf("task_%010d%s", time.Now().Unix(), hex.EncodeToString(random))
	go run(id, given.Name, kind, duration)
	answer(w, http.StatusAccepted, accepted{id, given.Name, "accepted", message})
}

func live(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

func main() {
	port := flag.Int("port", 8080, "port on 127.0.0.1")
	collect := flag.Bool("buffered", false, "write log lines together, ten times a second")
	flag.Parse()
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	if *collect {
		lines := &buffered{out: bufio.NewWriterSize(os.Stdout, 1<<20)}
		go lines.flush()
		log.SetOutput(lines)
	}
	http.HandleFunc("/api/tasks", submit)
	http.HandleFunc("/health/live", live)
	fmt.Fprintln(os.Stderr, http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), nil))
	os.Exit(1)
}

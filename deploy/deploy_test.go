// Package deploy checks the files of this directory, as far as that goes without what they are for: that
// they can be read, that the configurations in them load, and that what has to agree between them does.
// It holds tests only; .ci/deploy does the rest.
package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

const (
	// afterGrace is how long the daemon may go on when the grace is over: 5 s each for handlers whose contexts
	// have ended, for the telemetry, and for the listener.
	afterGrace = 15 * time.Second

	program = "/usr/local/bin/pq-dispatch"
	user    = "65532" // of distroless images, "nonroot"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// node is a value of a YAML document, to be walked along its keys.
type node struct {
	t     *testing.T
	path  string
	value any
}

func documents(t *testing.T, name string) (all []node) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(read(t, name)))
	for {
		var value any
		if err := decoder.Decode(&value); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, node{t, name, value})
	}
}

// at is what stands at the path of keys and indices; a missing one fails the test.
func (n node) at(keys ...any) node {
	n.t.Helper()
	for _, key := range keys {
		n.path = fmt.Sprintf("%s.%v", n.path, key)
		var found any
		switch within := n.value.(type) {
		case map[string]any:
			found = within[key.(string)]
		case []any:
			if i := key.(int); i < len(within) {
				found = within[i]
			}
		}
		if found == nil {
			n.t.Fatalf("%s: got nothing, want a value", n.path)
		}
		n.value = found
	}
	return n
}

func (n node) has(key string) bool {
	within, _ := n.value.(map[string]any)
	return within[key] != nil
}

func (n node) list() (all []node) {
	within, _ := n.value.([]any)
	for i := range within {
		all = append(all, n.at(i))
	}
	return all
}

func (n node) text() string { return fmt.Sprint(n.value) }

func (n node) words() (all []string) {
	for _, word := range n.list() {
		all = append(all, word.text())
	}
	return all
}

func (n node) wants(want any) {
	n.t.Helper()
	if !reflect.DeepEqual(n.value, want) {
		n.t.Errorf("%s: got %v, want %v", n.path, n.value, want)
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Error(err)
	}
	return d
}

// load loads a configuration, which must be as good as one can be.
func load(t *testing.T, text string, environ ...string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := config.Load(file, &config.Flags{Offline: true}, environ)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got %v, warnings %v; want a configuration without either", err, warnings)
	}
	return c
}

func stopsInTime(t *testing.T, c *config.Config, limit time.Duration) {
	t.Helper()
	if c.Grace+afterGrace > limit {
		t.Errorf("got %v until the daemon is killed, want more than its grace of %v and the %v after it", limit, c.Grace, afterGrace)
	}
}

// listens checks that the daemon can be asked from outside of its container, and returns the port.
func listens(t *testing.T, c *config.Config) string {
	t.Helper()
	host, port, err := net.SplitHostPort(c.HTTP.Address)
	if err != nil || !net.ParseIP(host).IsUnspecified() {
		t.Errorf("got the address %q (%v), want all of the container's", c.HTTP.Address, err)
	}
	if c.HTTP.Pprof {
		t.Error("got profiles for all who reach the container, want none")
	}
	return port
}

func TestTheUnitFitsTheDaemon(t *testing.T) {
	unit := map[string][]string{}
	for line := range strings.Lines(read(t, "pq-dispatch.service")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			unit[key] = append(unit[key], value)
		}
	}
	for key, want := range map[string]string{
		"Type":                     "notify",
		"NotifyAccess":             "main",
		"ExecStart":                program + " run -c /etc/pq-dispatch/pq-dispatch.yaml",
		"ExecReload":               "/bin/kill -HUP $MAINPID",
		"KillMode":                 "mixed",
		"RestartPreventExitStatus": "2",
		"DynamicUser":              "yes",
		"NoNewPrivileges":          "yes",
		"ProtectSystem":            "strict",
	} {
		if got := unit[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	// The example is what people start from.
	example := load(t, read(t, "../examples/pq-dispatch.yaml"))
	stopsInTime(t, example, duration(t, unit["TimeoutStopSec"][0]))
	if watchdog := duration(t, unit["WatchdogSec"][0]); watchdog < 10*time.Second {
		t.Errorf("got a watchdog of %v, want one that a busy host does not set off", watchdog)
	}
	// The credential becomes a setting that the daemon knows.
	id, _, _ := strings.Cut(unit["LoadCredential"][0], ":")
	variable, path, _ := strings.Cut(unit["Environment"][0], "=")
	c := load(t, "queues: {greetings: {http: {url: http://127.0.0.1/}}}", variable+"="+path)
	if path != "%d/"+id || c.Database.URLFile != path {
		t.Errorf("got the file %q, want the credential %s as database.url_file", c.Database.URLFile, id)
	}
}

// instruction is a line of a Dockerfile, continued ones joined.
type instruction struct{ name, rest string }

func dockerfile(t *testing.T) (all []instruction) {
	t.Helper()
	scanner := bufio.NewScanner(strings.NewReader(read(t, "Dockerfile")))
	var whole string
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if part, more := strings.CutSuffix(line, `\`); more {
			whole += part
			continue
		}
		name, rest, _ := strings.Cut(whole+line, " ")
		all, whole = append(all, instruction{name, strings.TrimSpace(rest)}), ""
	}
	if whole != "" {
		t.Error("got an end within an instruction, want it whole")
	}
	return all
}

func TestTheImageHasTheProgramAndNoMore(t *testing.T) {
	known := []string{"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
	form := regexp.MustCompile(`^(?:--platform=\S+ )?(\S+)(?: AS (\w+))?$`)
	copied := regexp.MustCompile(`^(?:--from=(\w+) )?(.+) \S+$`)
	var stages []string
	last := map[string]string{} // of the last stage
	for i, in := range dockerfile(t) {
		if !slices.Contains(known, in.name) || i == 0 && in.name != "FROM" {
			t.Errorf("%s %s: got an unknown instruction, want one of %v", in.name, in.rest, known)
		}
		switch in.name {
		case "FROM":
			m := form.FindStringSubmatch(in.rest)
			if m == nil {
				t.Fatalf("FROM %s: got no image, want one", in.rest)
			}
			stages, last = append(stages, m[2]), map[string]string{"FROM": m[1]}
		case "COPY":
			m := copied.FindStringSubmatch(in.rest)
			switch {
			case m == nil:
				t.Errorf("COPY %s: got no source and target", in.rest)
			case m[1] != "" && !slices.Contains(stages, m[1]):
				t.Errorf("COPY %s: got no stage %s before it", in.rest, m[1])
			case m[1] == "":
				for source := range strings.FieldsSeq(m[2]) {
					if _, err := os.Stat(filepath.Join("..", source)); err != nil {
						t.Errorf("COPY %s: %v", in.rest, err)
					}
				}
			}
			last[in.name] = in.rest
		default:
			last[in.name] = in.rest
		}
	}
	if !strings.HasPrefix(last["FROM"], "gcr.io/distroless/static") || last["RUN"] != "" {
		t.Errorf("got an image from %s with RUN %q, want a distroless one as it is", last["FROM"], last["RUN"])
	}
	if want := user + ":" + user; last["USER"] != want {
		t.Errorf("got the user %q, want %s", last["USER"], want)
	}
	if !strings.HasSuffix(last["COPY"], " "+program) {
		t.Errorf("got COPY %s, want the program at %s", last["COPY"], program)
	}
	for name, want := range map[string][]string{"ENTRYPOINT": {program}, "CMD": {"run", "-c", "/etc/pq-dispatch/pq-dispatch.yaml"}} {
		var got []string
		if err := json.Unmarshal([]byte(last[name]), &got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %s (%v), want %q: there is no shell", name, last[name], err, want)
		}
	}
}

func exposed(t *testing.T) string {
	t.Helper()
	for _, in := range dockerfile(t) {
		if in.name == "EXPOSE" {
			return in.rest
		}
	}
	t.Fatal("got no EXPOSE, want it")
	return ""
}

func TestComposeAgreesWithItself(t *testing.T) {
	all := documents(t, "compose.yaml")[0]
	services, configs := all.at("services").value.(map[string]any), all.at("configs").value.(map[string]any)
	for name := range services {
		service := all.at("services", name)
		if service.has("depends_on") {
			for other := range service.at("depends_on").value.(map[string]any) {
				if services[other] == nil {
					t.Errorf("%s: depends on %s, which there is not", name, other)
				}
			}
		}
		if service.has("configs") {
			for _, use := range service.at("configs").list() {
				if configs[use.at("source").text()] == nil {
					t.Errorf("%s: gets the configuration %s, which there is not", name, use.at("source").text())
				}
			}
		}
		if name == "postgres" {
			continue // its image sees to its user itself
		}
		service.at("read_only").wants(true)
		service.at("cap_drop").wants([]any{"ALL"})
	}

	dispatcher := all.at("services", "dispatcher")
	dispatcher.at("configs", 0, "target").wants("/etc/pq-dispatch/pq-dispatch.yaml")
	address := regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllString(dispatcher.at("environment", "PQ_DISPATCH_DATABASE_URL").text(), "secret")
	c := load(t, all.at("configs", "dispatcher", "content").text(), "PQ_DISPATCH_DATABASE_URL="+address)
	stopsInTime(t, c, duration(t, dispatcher.at("stop_grace_period").text()))
	port := listens(t, c)
	if port != exposed(t) {
		t.Errorf("got port %s, want %s as the image says", port, exposed(t))
	}
	dispatcher.at("ports").wants([]any{"127.0.0.1:" + port + ":" + port})
	dispatcher.at("healthcheck", "test").wants([]any{"CMD", program, "healthcheck", "127.0.0.1:" + port})
}

// The sample worker is what the queue's URL leads to, and does what the handler expects of it.
func TestTheSampleWorkerTakesAJob(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("the sample worker is in Python, and there is no python3 in PATH")
	}
	all := documents(t, "compose.yaml")[0]
	script := filepath.Join(t.TempDir(), "worker.py")
	if err := os.WriteFile(script, []byte(all.at("configs", "worker", "content").text()), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	worker := exec.CommandContext(ctx, python, script)
	worker.Env = append(os.Environ(), "PYTHONUNBUFFERED=1", "PORT="+strconv.Itoa(port))
	out, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = worker.Wait() // it was killed
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/", port), strings.NewReader(`{"name": "Ada"}`))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode != http.StatusNoContent {
				t.Errorf("got %s, want 204", response.Status)
			}
			break
		}
		select {
		case <-tick.C: // it has not started yet
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "hello, Ada\n" {
		t.Errorf("got %q (%v), want hello, Ada", line, err)
	}
}

func TestTheManifestAgreesWithItself(t *testing.T) {
	objects := map[string]node{}
	for _, object := range documents(t, "kubernetes.yaml") {
		object.at("apiVersion")
		object.at("metadata", "name").wants("pq-dispatch")
		objects[object.at("kind").text()] = object
	}
	deployment := objects["Deployment"].at("spec")
	pod := deployment.at("template", "spec")
	labels := deployment.at("template", "metadata", "labels").value
	deployment.at("selector", "matchLabels").wants(labels)
	objects["PodDisruptionBudget"].at("spec", "selector", "matchLabels").wants(labels)
	pod.at("topologySpreadConstraints", 0, "labelSelector", "matchLabels").wants(labels)

	c := load(t, objects["ConfigMap"].at("data", "pq-dispatch.yaml").text())
	seconds, err := strconv.Atoi(pod.at("terminationGracePeriodSeconds").text())
	if err != nil {
		t.Error(err)
	}
	stopsInTime(t, c, time.Duration(seconds)*time.Second)
	port := listens(t, c)

	pod.at("securityContext", "runAsNonRoot").wants(true)
	if got := pod.at("securityContext", "runAsUser").text(); got != user {
		t.Errorf("got the user %s, want %s as in the image", got, user)
	}
	dispatcher := pod.at("containers", 0)
	for _, container := range []node{dispatcher, pod.at("initContainers", 0)} {
		container.at("image").wants(dispatcher.at("image").value)
		container.at("securityContext", "readOnlyRootFilesystem").wants(true)
		container.at("securityContext", "allowPrivilegeEscalation").wants(false)
		container.at("securityContext", "capabilities", "drop").wants([]any{"ALL"})
		container.at("resources", "requests", "cpu")
		container.at("resources", "limits", "memory")
	}
	if dispatcher.has("lifecycle") {
		t.Error("got a lifecycle hook, want none, as the comment says")
	}

	if got := dispatcher.at("ports", 0, "containerPort").text(); got != port || port != exposed(t) {
		t.Errorf("got the ports %s in the manifest, %s in the configuration, %s in the image; want one", got, port, exposed(t))
	}
	deployment.at("template", "metadata", "annotations", "prometheus.io/port").wants(port)
	for probe, path := range map[string]string{"livenessProbe": "/livez", "startupProbe": "/livez", "readinessProbe": "/readyz"} {
		p := dispatcher.at(probe)
		p.at("httpGet", "path").wants(path)
		p.at("httpGet", "port").wants(dispatcher.at("ports", 0, "name").value)
		// The daemon takes a second to say that something does not answer.
		if limit, err := strconv.Atoi(p.at("timeoutSeconds").text()); err != nil || limit < 2 {
			t.Errorf("%s: got a limit of %d s (%v), want more than 1", probe, limit, err)
		}
	}

	// The volumes are mounted where the program and its configuration look.
	mounts, volumes := map[string]string{}, map[string]node{}
	for _, m := range dispatcher.at("volumeMounts").list() {
		mounts[m.at("name").text()] = m.at("mountPath").text()
	}
	for _, v := range pod.at("volumes").list() {
		volumes[v.at("name").text()] = v
	}
	if len(mounts) != len(volumes) {
		t.Errorf("got %d mounts of %d volumes, want one each", len(mounts), len(volumes))
	}
	volumes["config"].at("configMap", "name").wants(objects["ConfigMap"].at("metadata", "name").value)
	if args := dispatcher.at("args").words(); !slices.Equal(args, []string{"run", "-c", mounts["config"] + "/pq-dispatch.yaml"}) {
		t.Errorf("got the arguments %q, want the file of the ConfigMap", args)
	}
	secret := pod.at("initContainers", 0, "env", 0, "valueFrom", "secretKeyRef")
	secret.at("name").wants(volumes["secrets"].at("secret", "secretName").value)
	if want := mounts["secrets"] + "/" + secret.at("key").text(); c.Database.URLFile != want {
		t.Errorf("got the file %s for the database's address, want %s", c.Database.URLFile, want)
	}
}

package web_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/web"
	"github.com/runnel-project/runnel/internal/runner/web/webtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// get sends one GET to a URL and returns the body.
func get(t *testing.T, c *web.Client, url string) (string, error) {
	t.Helper()
	call, err := c.Begin(webtest.Job(t, contracts.KindHTTP, map[string]string{"http.url": url, "http.method": "GET"}))
	if err != nil {
		return "", err
	}
	response, err := call.Do(t.Context(), web.Request{Method: call.Method, URL: call.URL})
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// dialed notes where connections were to go, and takes them all to one server: no test leaves this machine.
type dialed struct {
	to string
	mu sync.Mutex
	at []string
}

func (d *dialed) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.at = append(d.at, address)
	d.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, network, d.to)
}

func server(t *testing.T) (*httptest.Server, *dialed) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	t.Cleanup(s.Close)
	return s, &dialed{to: s.Listener.Addr().String()}
}

// Whatever an address is written as, it is the machine that it leads to that is judged.
func TestPolicyOfAddresses(t *testing.T) {
	_, d := server(t)
	for name, test := range map[string]struct {
		allow, deny []string
		url         string
		refused     string // what the error names; "" is allowed
	}{
		"public":                  {nil, nil, "http://93.184.216.34/", ""},
		"public, IPv6":            {nil, nil, "http://[2606:2800:220:1::1]/", ""},
		"loopback":                {nil, nil, "http://127.0.0.1/", "127.0.0.1 (loopback)"},
		"loopback, IPv6":          {nil, nil, "http://[::1]/", "::1 (loopback)"},
		"this host":               {nil, nil, "http://0.0.0.0/", "this host"},
		"unspecified, IPv6":       {nil, nil, "http://[::]/", "this host"},
		"link-local":              {nil, nil, "http://169.254.169.254/", "link-local"},
		"link-local, IPv6":        {nil, nil, "http://[fe80::1]/", "link-local"},
		"zone":                    {nil, nil, "http://[fe80::1%25eth0]/", "link-local"},
		"private":                 {nil, nil, "http://10.1.2.3/", "private"},
		"private, 172":            {nil, nil, "http://172.31.255.255/", "private"},
		"private, 192":            {nil, nil, "http://192.168.0.1/", "private"},
		"private, IPv6":           {nil, nil, "http://[fd00::1]/", "private"},
		"shared":                  {nil, nil, "http://100.64.0.1/", "carrier-grade"},
		"multicast":               {nil, nil, "http://224.0.0.1/", "multicast"},
		"multicast, IPv6":         {nil, nil, "http://[ff02::1]/", "multicast"},
		"broadcast":               {nil, nil, "http://255.255.255.255/", "reserved"},
		"IPv4 in IPv6":            {nil, nil, "http://[::ffff:127.0.0.1]/", "127.0.0.1 (loopback)"},
		"IPv4 in IPv6, hex":       {nil, nil, "http://[::ffff:a9fe:a9fe]/", "169.254.169.254 (link-local)"},
		"IPv4-compatible":         {nil, nil, "http://[::7f00:1]/", "127.0.0.1 in it"},
		"NAT64 of loopback":       {nil, nil, "http://[64:ff9b::7f00:1]/", "127.0.0.1 in it"},
		"NAT64 of public":         {nil, nil, "http://[64:ff9b::5db8:d822]/", ""},
		"NAT64, local":            {nil, nil, "http://[64:ff9b:1::5db8:d822]/", "translated"},
		"6to4 of private":         {nil, nil, "http://[2002:a00:1::1]/", "10.0.0.1 in it"},
		"allowed":                 {[]string{"127.0.0.0/8"}, nil, "http://127.0.0.1/", ""},
		"allowed, mapped":         {[]string{"127.0.0.0/8"}, nil, "http://[::ffff:127.0.0.1]/", ""},
		"allowed, another":        {[]string{"10.0.0.0/8"}, nil, "http://127.0.0.1/", "loopback"},
		"denied":                  {nil, []string{"93.184.0.0/16"}, "http://93.184.216.34/", "93.184.216.34"},
		"denied before allowed":   {[]string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "http://10.1.0.1/", "10.1.0.1"},
		"denied host":             {nil, []string{"example.com"}, "http://API.example.com./", "API.example.com."},
		"decimal is not a number": {nil, nil, "http://2130706433/", "no such host"},
		"octal is not a number":   {nil, nil, "http://0177.0.0.1/", "no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			d.at = nil
			c := webtest.Open(t, web.Config{Allow: append([]string{}, test.allow...), Deny: test.deny, Resolver: &webtest.Resolver{}, Dial: d.dial})
			body, err := get(t, c.Client, test.url)
			if test.refused == "" {
				if err != nil || body != "ok" {
					t.Errorf("%q, %v, want it allowed", body, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("error = %v, want %s", err, test.refused)
			}
			if !strings.Contains(test.refused, "no such host") && !errors.Is(err, runner.ErrRejected) {
				t.Errorf("error = %v, want a rejection", err)
			}
			if len(d.at) > 0 {
				t.Errorf("a connection was made to %v", d.at)
			}
		})
	}
}

// What a name leads to is asked once, judged whole, and dialled as it was judged.
func TestPolicyOfNames(t *testing.T) {
	_, d := server(t)
	resolver := func() *webtest.Resolver {
		return &webtest.Resolver{Hosts: map[string][][]string{
			"public.example.com": {{"93.184.216.34"}},
			"rebind.example.com": {{"93.184.216.34"}, {"127.0.0.1"}},
			"both.example.com":   {{"93.184.216.34", "127.0.0.1"}},
			"local.example.com":  {{"::ffff:10.0.0.1"}},
		}}
	}
	t.Run("public", func(t *testing.T) {
		c := webtest.Open(t, web.Config{Allow: []string{}, Resolver: resolver(), Dial: d.dial})
		if body, err := get(t, c.Client, "http://public.example.com:8080/"); err != nil || body != "ok" {
			t.Errorf("%q, %v", body, err)
		}
		if d.at[len(d.at)-1] != "93.184.216.34:8080" {
			t.Errorf("dialled %v, want the address that was judged", d.at)
		}
	})
	t.Run("public first, loopback second", func(t *testing.T) {
		d.at = nil
		r := resolver()
		c := webtest.Open(t, web.Config{Allow: []string{}, Resolver: r, Dial: d.dial})
		if _, err := get(t, c.Client, "http://rebind.example.com/"); err != nil {
			t.Fatal(err)
		}
		if r.Asked != 1 || len(d.at) != 1 || d.at[0] != "93.184.216.34:80" {
			t.Errorf("asked %d times, dialled %v: want the first answer dialled and no second one asked for", r.Asked, d.at)
		}
		c.Close() // the next job needs a new connection
		if _, err := get(t, c.Client, "http://rebind.example.com/"); !errors.Is(err, runner.ErrRejected) || !strings.Contains(err.Error(), "127.0.0.1 (loopback)") {
			t.Errorf("error = %v, want the second answer refused", err)
		}
	})
	for host, want := range map[string]string{"both.example.com": "127.0.0.1 (loopback)", "local.example.com": "10.0.0.1 (private)"} {
		t.Run(host, func(t *testing.T) {
			d.at = nil
			c := webtest.Open(t, web.Config{Allow: []string{}, Resolver: resolver(), Dial: d.dial})
			if _, err := get(t, c.Client, "http://"+host+"/"); !errors.Is(err, runner.ErrRejected) || !strings.Contains(err.Error(), want) || len(d.at) > 0 {
				t.Errorf("error = %v after %v, want %s and no connection", err, d.at, want)
			}
		})
	}
	t.Run("only", func(t *testing.T) {
		c := webtest.Open(t, web.Config{Allow: []string{}, Only: []string{"*.example.com"}, Deny: []string{"both.example.com"}, Resolver: resolver(), Dial: d.dial})
		if _, err := get(t, c.Client, "http://public.example.com/"); err != nil {
			t.Errorf("error = %v, want it allowed", err)
		}
		for _, host := range []string{"badexample.com", "both.example.com", "93.184.216.34"} {
			if _, err := get(t, c.Client, "http://"+host+"/"); !errors.Is(err, runner.ErrRejected) {
				t.Errorf("%s: error = %v, want a rejection", host, err)
			}
		}
	})
}

// The system's own dialler looks once more at what it connects to.
func TestPolicyAtTheSocket(t *testing.T) {
	s, _ := server(t)
	c, err := web.Open(web.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := get(t, c, s.URL); !errors.Is(err, runner.ErrRejected) {
		t.Errorf("error = %v, want a rejection", err)
	}
	allowed, err := web.Open(web.Config{Allow: webtest.Loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer allowed.Close()
	if body, err := get(t, allowed, s.URL); err != nil || body != "ok" {
		t.Errorf("%q, %v", body, err)
	}
	if got := allowed.Capabilities("http")["http.hosts"]; got != "public addresses, and 127.0.0.0/8, ::1/128" {
		t.Errorf("policy = %q", got)
	}
}

func TestPolicyIsChecked(t *testing.T) {
	for _, cfg := range []web.Config{
		{Allow: []string{"example.com"}}, {Allow: []string{"10.0.0.0/33"}}, {Allow: []string{"::ffff:10.0.0.0/104"}}, {Deny: []string{"http://x/"}}, {Deny: []string{""}},
		{Only: []string{"a b"}}, {CAFile: "/nonexistent"}, {CAFile: "policy_test.go"}, {SecretsDir: "/nonexistent"}, {SecretsDir: "policy_test.go"}, {SecretsFile: "/nonexistent"},
	} {
		if c, err := web.Open(cfg); err == nil {
			c.Close()
			t.Errorf("Open(%+v) finds nothing wrong", cfg)
		}
	}
}

// A proxy that the operator names takes every request whose target is allowed, and no other.
func TestProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Proxy-Authorization"))
		io.WriteString(w, "by proxy")
	}))
	defer proxy.Close()
	c, err := web.Open(web.Config{
		Proxy:    strings.Replace(proxy.URL, "://", "://me:hunter2@", 1),
		Resolver: &webtest.Resolver{Hosts: map[string][][]string{"a.example.com": {{"93.184.216.34"}}, "b.example.com": {{"10.0.0.1"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if body, err := get(t, c, "http://a.example.com/x"); err != nil || body != "by proxy" {
		t.Errorf("%q, %v", body, err)
	}
	for _, url := range []string{"http://b.example.com/", "http://127.0.0.1/", proxy.URL} {
		if _, err := get(t, c, url); !errors.Is(err, runner.ErrRejected) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error = %v, want a rejection", url, err)
		}
	}
	if got := strings.Join(asked, ", "); got != "GET http://a.example.com/x Basic bWU6aHVudGVyMg==" {
		t.Errorf("the proxy was asked %s", got)
	}
	for _, bad := range []string{"proxy:3128", "ftp://x", "http://", "http://me:hunter2@[::"} {
		if c, err := web.Open(web.Config{Proxy: bad}); err == nil || strings.Contains(err.Error(), "hunter2") {
			if c != nil {
				c.Close()
			}
			t.Errorf("Open(%q) = %v", bad, err)
		}
	}
}

// The environment's proxy is not asked: it would look names up itself.
func TestProxyOfTheEnvironment(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	_, d := server(t)
	c := webtest.Open(t, web.Config{Allow: []string{}, Resolver: &webtest.Resolver{Hosts: map[string][][]string{"a.example.com": {{"93.184.216.34"}}}}, Dial: d.dial})
	if body, err := get(t, c.Client, "http://a.example.com/"); err != nil || body != "ok" || d.at[0] != "93.184.216.34:80" {
		t.Errorf("%q, %v, dialled %v", body, err, d.at)
	}
}

package settings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel/embedded"
)

// DefaultServer is where a server is looked for unless told otherwise.
const DefaultServer = "nats://127.0.0.1:4222"

// ErrNoServer says that nothing answered.
var ErrNoServer = errors.New("no NATS server")

// ErrCredentials says that the server was there and did not let us in.
var ErrCredentials = errors.New("credentials refused")

// Connection says which server to talk to, and as whom.
type Connection struct {
	Server  string // one URL, or several with commas between them
	Context string // a context of the nats CLI; flags go before what it says
	Creds   string // file with a JWT and a seed
	NKey    string // file with a seed
	TLSCert string // PEM files
	TLSKey  string
	TLSCA   string
}

// Flags adds a flag for every field.
func (c *Connection) Flags(fs *pflag.FlagSet) {
	fs.StringVarP(&c.Server, "server", "s", "", "NATS server, `URL` or several with commas (default "+DefaultServer+")")
	fs.StringVar(&c.Context, "context", "", "`NAME` of a context of the nats CLI")
	fs.StringVar(&c.Creds, "creds", "", "credentials `FILE` (JWT and seed)")
	fs.StringVar(&c.NKey, "nkey", "", "`FILE` with an nkey seed")
	fs.StringVar(&c.TLSCert, "tlscert", "", "TLS client certificate, PEM `FILE`")
	fs.StringVar(&c.TLSKey, "tlskey", "", "TLS client key, PEM `FILE`")
	fs.StringVar(&c.TLSCA, "tlsca", "", "TLS certificates to trust, PEM `FILE`")
}

// Target is a Connection after its context was read: what is dialled, as whom, and with what.
type Target struct {
	URL     string // as nats.Connect takes it; may hold a password
	Shown   string // the same without what must not be shown
	as      string // who we say we are, for errors
	user    bool   // the URL names one
	options []nats.Option

	login  *url.Userinfo // that URL does not name, for another program
	env    []string      // of the flags that name files
	secret bool          // there is a seed that no flag names
}

// Resolve reads the context and finds the token of a server of this account.
func (c Connection) Resolve() (Target, error) {
	var ctx natsContext
	if c.Context != "" {
		var err error
		if ctx, err = readContext(c.Context); err != nil {
			return Target{}, err
		}
	}
	t := Target{URL: cmp.Or(c.Server, ctx.URL, DefaultServer)}
	var err error
	if t.Shown, t.user, err = withoutUser(t.URL); err != nil {
		return Target{}, err
	}
	if err := t.secure(c, ctx); err != nil {
		return Target{}, err
	}
	if ctx.InboxPrefix != "" {
		t.options = append(t.options, nats.CustomInboxPrefix(ctx.InboxPrefix))
	}
	return t, t.identify(c, ctx)
}

// secure adds the TLS options.
func (t *Target) secure(c Connection, ctx natsContext) error {
	cert, key, ca := cmp.Or(c.TLSCert, ctx.Cert), cmp.Or(c.TLSKey, ctx.Key), cmp.Or(c.TLSCA, ctx.CA)
	t.env = append(t.env, Variable("tlscert")+"="+cert, Variable("tlskey")+"="+key, Variable("tlsca")+"="+ca)
	if (cert == "") != (key == "") {
		return errors.New("a TLS certificate needs its key and the other way round: give both --tlscert and --tlskey")
	}
	for flag, file := range map[string]string{"tlscert": cert, "tlskey": key, "tlsca": ca} {
		if err := readable(flag, file); err != nil {
			return err
		}
	}
	if cert != "" {
		t.options = append(t.options, nats.ClientCert(cert, key))
	}
	if ca != "" {
		t.options = append(t.options, nats.RootCAs(ca))
	}
	if ctx.TLSFirst {
		t.options = append(t.options, nats.TLSHandshakeFirst())
	}
	return nil
}

// identify adds the first of: who a flag names, who the context names, the token that a server of this account left.
func (t *Target) identify(c Connection, ctx natsContext) error {
	creds, nkey := cmp.Or(c.Creds, ctx.Creds), cmp.Or(c.NKey, ctx.NKey)
	if c.NKey != "" && c.Creds == "" {
		creds = "" // a flag goes before the context, whatever it names
	}
	switch {
	case t.user && c.Server != "" && c.Creds == "" && c.NKey == "":
		t.as = "the user in the server's address"
	case creds != "":
		t.as = "the credentials in " + creds
		if err := readable("creds", creds); err != nil {
			return err
		}
		t.env = append(t.env, Variable("creds")+"="+creds)
		t.options = append(t.options, nats.UserCredentials(creds))
	case nkey != "":
		t.as = "the nkey in " + nkey
		if err := readable("nkey", nkey); err != nil {
			return err
		}
		option, err := nats.NkeyOptionFromSeed(nkey)
		if err != nil {
			return fmt.Errorf("nkey %s: %w", nkey, err)
		}
		t.env = append(t.env, Variable("nkey")+"="+nkey)
		t.options = append(t.options, option)
	case ctx.UserJWT != "" && ctx.UserSeed != "":
		t.as = fmt.Sprintf("the user of context %q", c.Context)
		t.secret = true
		t.options = append(t.options, nats.UserJWTAndSeed(ctx.UserJWT, ctx.UserSeed))
	case ctx.Token != "":
		t.as = fmt.Sprintf("the token of context %q", c.Context)
		t.login = url.User(ctx.Token)
		t.options = append(t.options, nats.Token(ctx.Token))
	case ctx.User != "":
		t.as = fmt.Sprintf("user %q of context %q", ctx.User, c.Context)
		t.login = url.UserPassword(ctx.User, ctx.Password)
		t.options = append(t.options, nats.UserInfo(ctx.User, ctx.Password))
	case t.user:
		t.as = "the user in the server's address"
	default:
		t.as = "no credentials"
		return t.ownToken()
	}
	return nil
}

// ownToken takes the token that a server of this account left by its address.
// With several servers there is none: they are no `worker dev`.
func (t *Target) ownToken() error {
	address, ok := hostPort(t.URL)
	if !ok {
		return nil
	}
	token, err := embedded.Token(address)
	if err != nil || token == "" {
		return err
	}
	t.as = "the token that worker dev left for " + address
	t.login = url.User(token)
	t.options = append(t.options, nats.Token(token))
	return nil
}

// Environment is the variables, NAME=VALUE, by which another program gets to the same server as the same
// user: those of the flags. One that is empty does not count.
func (t Target) Environment() ([]string, error) {
	if t.secret {
		return nil, fmt.Errorf("%s cannot be handed to another program: name a file with --creds", t.as)
	}
	servers := strings.Split(t.URL, ",")
	for i, s := range servers {
		u, err := parseServer(s)
		if err != nil {
			return nil, err
		}
		if t.login != nil {
			u.User = t.login
		}
		servers[i] = u.String()
	}
	env := []string{Variable("server") + "=" + strings.Join(servers, ","), Variable("context") + "=", Variable("creds") + "=", Variable("nkey") + "="}
	return append(env, t.env...), nil // the last of a name counts
}

// Dial connects, trying until the server answers or ctx ends; a server that
// refuses the credentials ends it at once. waiting, if not nil, hears of every
// attempt that failed. Errors wrap ErrNoServer or ErrCredentials.
func (t Target) Dial(ctx context.Context, waiting func(error), extra ...nats.Option) (*nats.Conn, error) {
	// ErrNoServers hides the cause of one try from another.
	var cause error
	for {
		timeout := 2 * time.Second
		if deadline, ok := ctx.Deadline(); ok {
			timeout = max(min(timeout, time.Until(deadline)), time.Millisecond)
		}
		options := append([]nats.Option{nats.Timeout(timeout)}, extra...)
		nc, err := nats.Connect(t.URL, append(options, t.options...)...)
		switch {
		case err == nil:
			return nc, nil
		case refused(err):
			return nil, fmt.Errorf("connect to %s with %s: %w (%w): name others with --creds, --nkey or --context, or put them in the server's address",
				t.Shown, t.as, ErrCredentials, err)
		case !transient(err):
			return nil, fmt.Errorf("connect to %s: %w", t.Shown, err)
		}
		cause = err
		if waiting != nil {
			waiting(cause)
		}
		select {
		case <-ctx.Done():
			return nil, t.silent(cause)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// silent says that nothing answered, and why if it is more than that nobody listens.
func (t Target) silent(cause error) error {
	var refusal *net.OpError
	if errors.Is(cause, nats.ErrNoServers) || errors.As(cause, &refusal) && refusal.Op == "dial" {
		return fmt.Errorf("%w at %s", ErrNoServer, t.Shown)
	}
	return fmt.Errorf("%w at %s (%w)", ErrNoServer, t.Shown, cause)
}

func refused(err error) bool {
	for _, e := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrNkeysNotSupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(strings.ToLower(err.Error()), "authorization violation")
}

// transient reports whether the same attempt may do better later.
func transient(err error) bool {
	var network net.Error
	var dial *net.OpError
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.As(err, &network) || errors.As(err, &dial) ||
		errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrStaleConnection) || strings.Contains(err.Error(), "EOF")
}

func readable(flag, file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return f.Close()
}

// withoutUser is the address as it may be shown and logged, and whether something was left out.
func withoutUser(servers string) (shown string, user bool, err error) {
	list := strings.Split(servers, ",")
	for i, s := range list {
		u, err := parseServer(s)
		if err != nil {
			return "", false, err
		}
		user = user || u.User != nil
		u.User = nil
		list[i] = u.String()
	}
	return strings.Join(list, ","), user, nil
}

func parseServer(s string) (*url.URL, error) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "://") {
		s = "nats://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		// The error of Parse quotes the address, which may hold a password.
		return nil, errors.New("--server: not an address: it is nats://HOST:PORT, tls:// or ws:// likewise")
	}
	return u, nil
}

// hostPort is the address of the one server in servers.
func hostPort(servers string) (string, bool) {
	if strings.Contains(servers, ",") {
		return "", false
	}
	u, err := parseServer(servers)
	if err != nil {
		return "", false
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "4222")), true
}

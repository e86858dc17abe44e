package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer is the server half of a Node: it exists from its data directory to
// the removal of it.
type natsServer struct {
	*server.Server
	token string
	url   string // "" without a listener
	dir   string
	temp  bool     // dir is removed at the end
	lock  *os.File // held while dir is ours
}

// maxMemory bounds streams that are kept in memory. Runnel's are kept in files;
// the register of workers is the exception, and it is small.
const maxMemory = 256 << 20

// startServer is bounded by ctx.
func startServer(ctx context.Context, cfg Config) (_ *natsServer, err error) {
	s := &natsServer{token: cfg.Token, dir: cfg.StoreDir}
	defer func() {
		if err != nil {
			s.close(ctx)
		}
	}()
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "runnel-"); err != nil {
			return nil, fmt.Errorf("make a data directory: %w", err)
		}
		s.temp = true
	} else if err = ownDir(s.dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if s.lock, err = lockDir(s.dir); err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName:         "runnel-embedded",
		JetStream:          true,
		StoreDir:           filepath.Join(s.dir, "nats"),
		JetStreamMaxMemory: maxMemory,
		JetStreamMaxStore:  cfg.MaxStore,
		NoSigs:             true, // the signals are the program's
		DontListen:         cfg.Listen == "",
	}
	if cfg.Listen != "" {
		if opts.Host, opts.Port, err = splitListen(cfg.Listen); err != nil {
			return nil, err
		}
		if s.token, err = listenToken(cfg); err != nil {
			return nil, err
		}
		opts.Authorization = s.token
	}
	log := &serverLog{log: cfg.Log}
	if s.Server, err = server.NewServer(opts); err != nil {
		return nil, fmt.Errorf("start a NATS server: %w", err)
	}
	s.SetLoggerV2(log, cfg.Log.Debug().Enabled(), false, false)
	s.Start()
	if text := log.fatal.Load(); text != nil {
		return nil, fmt.Errorf("start a NATS server: %s", *text)
	}
	wait := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	if !s.ReadyForConnections(wait) {
		return nil, fmt.Errorf("start a NATS server: not ready after %s", wait.Round(time.Millisecond))
	}
	if cfg.Listen != "" {
		address := net.JoinHostPort(opts.Host, strconv.Itoa(s.Addr().(*net.TCPAddr).Port))
		s.url = "nats://" + address
		if cfg.Share {
			if err = keepToken(address, s.token); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// close ends the server and gives its directory back. It may be called on a half-made one.
func (s *natsServer) close(ctx context.Context) (err error) {
	if s.Server != nil {
		down := make(chan struct{})
		go func() {
			defer close(down)
			s.Shutdown()
			s.WaitForShutdown()
		}()
		select {
		case <-down:
		case <-ctx.Done():
			// Its files are still being written: the directory is neither free nor removable.
			return fmt.Errorf("stop the NATS server: %w", context.Cause(ctx))
		}
	}
	if s.lock != nil {
		err = s.lock.Close()
	}
	if s.temp {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

func splitListen(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: %w (it is HOST:PORT)", listen, err)
	}
	if port, err = strconv.Atoi(text); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("listen address %q: port %q is not a number from 0 to 65535", listen, text)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// listenToken is the configured token, or the one that clients of this address
// already know (so that they can come back after a restart), or a new one.
func listenToken(cfg Config) (string, error) {
	if cfg.Token != "" {
		return cfg.Token, nil
	}
	if cfg.Share {
		token, err := Token(cfg.Listen)
		if err != nil || token != "" {
			return token, err
		}
	}
	return newToken(), nil
}

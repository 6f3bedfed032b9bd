package ctl

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (e *env) login() *cobra.Command {
	var user, name, ca string
	var stdin bool
	var days int
	c := &cobra.Command{
		Use: "login URL", Short: "Log in to a hub and keep an API token for it", Args: args(cobra.ExactArgs(1)),
		Example: "  swellctl login http://127.0.0.1:7440 --user admin --name factory --password-stdin < password",
		RunE: func(c *cobra.Command, a []string) error {
			if days <= 0 {
				return usage("--days %d: want 1 or more", days)
			}
			h, err := e.connect("", &site{URL: a[0], CAFile: ca})
			if err != nil {
				return err
			}
			password, err := e.password(stdin, user, a[0])
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			resp, err := h.send(ctx, http.MethodPost, "/session", nil, object{"user": user, "password": password})
			if err != nil {
				return err
			}
			_ = resp.Body.Close()
			for _, ck := range resp.Cookies() {
				if ck.Name == "swell_session" {
					h.cookie = ck
				}
			}
			var s struct {
				CSRFToken string `json:"csrfToken"`
				Role      string `json:"role"`
			}
			if err := h.get(ctx, "/session", nil, &s); err != nil {
				return err
			}
			h.csrf = s.CSRFToken
			host, _ := os.Hostname()
			var made struct {
				Secret string `json:"secret"`
			}
			if err := h.do(ctx, http.MethodPost, "/api-tokens", url.Values{"reason": {"swellctl login"}}, object{
				"name": "swellctl on " + host, "role": s.Role, "ttlSeconds": days * 24 * 3600,
			}, &made); err != nil {
				return fmt.Errorf("make an API token: %w", err)
			}
			_ = h.do(ctx, http.MethodDelete, "/session", nil, nil, nil) // the token is what is used from now on
			conf, err := e.load()
			if err != nil {
				return err
			}
			if name == "" {
				u, _ := url.Parse(a[0])
				name = u.Host
			}
			conf.Contexts[name] = &site{URL: a[0], Token: made.Secret, User: user, CAFile: ca}
			conf.Current = name
			if err := e.save(conf); err != nil {
				return fmt.Errorf("keep the token: %w", err)
			}
			fmt.Fprintf(e.err, "Logged in to %s as %s (%s) until %s.\n", name, user, s.Role, time.Now().AddDate(0, 0, days).Format(time.DateOnly))
			return nil
		},
	}
	c.Flags().StringVarP(&user, "user", "u", "admin", "user name")
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	c.Flags().StringVar(&name, "name", "", "what to call this hub (default its host and port)")
	c.Flags().StringVar(&ca, "ca-file", "", "PEM file with the CA of the hub's certificate")
	c.Flags().IntVar(&days, "days", 30, "how long the token is good for")
	return c
}

func (e *env) password(stdin bool, user, hub string) (string, error) {
	if p := os.Getenv("SWELL_PASSWORD"); p != "" {
		return p, nil
	}
	if f, ok := e.in.(*os.File); ok && !stdin && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(e.err, "Password of %s at %s: ", user, hub)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(e.err)
		return string(b), err
	}
	if !stdin {
		return "", usage("no terminal to ask for the password: use --password-stdin or $SWELL_PASSWORD")
	}
	line, err := bufio.NewReader(e.in).ReadString('\n')
	if err != nil && line == "" {
		return "", usage("no password on standard input")
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func (e *env) contexts() *cobra.Command {
	c := &cobra.Command{Use: "context", Short: "List and choose the hubs you are logged in to"}
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List the hubs; the star marks the one in use", Example: "  swellctl context list", Args: args(cobra.NoArgs), RunE: func(*cobra.Command, []string) error {
			conf, err := e.load()
			if err != nil {
				return err
			}
			t := e.newTable("", "NAME", "URL", "USER")
			for _, n := range sortedKeys(conf.Contexts) {
				mark := ""
				if n == conf.Current {
					mark = "*"
				}
				t.row(mark, n, conf.Contexts[n].URL, conf.Contexts[n].User)
			}
			return t.flush()
		}},
		&cobra.Command{Use: "use NAME", Short: "Choose the hub to use from now on", Example: "  swellctl context use factory", Args: args(cobra.ExactArgs(1)), RunE: func(_ *cobra.Command, a []string) error {
			conf, err := e.load()
			if err != nil {
				return err
			}
			if conf.Contexts[a[0]] == nil {
				return unknownHub(a[0], conf)
			}
			conf.Current = a[0]
			return e.save(conf)
		}},
	)
	return c
}

package interlock

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// MQTT permits while a topic of the plant's broker holds Value. Each check
// connects, subscribes, and takes what comes first: the retained value, or one
// that is published meanwhile.
type MQTT struct {
	Broker string `yaml:"broker"` // required: tcp://host:1883 or tls://host:8883
	Topic  string `yaml:"topic"`  // required; no wildcards
	Value  `yaml:",inline"`
	// MaxAgeS is how old the value may be, in seconds. 0: as old as it likes. A
	// retained value does not say when it was published: either TimeField does,
	// or the value has to be published anew while the check listens.
	MaxAgeS float64 `yaml:"max_age_s"`
	// TimeField is the path of a JSON field with the time of the value: RFC 3339,
	// or a number of seconds or milliseconds since 1970.
	TimeField string `yaml:"time_field"`
	// TimeoutS bounds the check, in seconds. 0 means 5, or MaxAgeS where the
	// check listens for a new value; at most 60.
	TimeoutS float64 `yaml:"timeout_s"`
	// User and PasswordFile, and CAFile, CertFile and KeyFile in PEM, say who the
	// device is to the broker and which CA it trusts. Empty: nobody, the system's.
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
	CAFile       string `yaml:"ca_file"`
	CertFile     string `yaml:"cert_file"`
	KeyFile      string `yaml:"key_file"`
}

func (m *MQTT) where() string {
	u, err := url.Parse(m.Broker)
	if err != nil {
		return m.Topic
	}
	return fmt.Sprintf("topic %s at %s", m.Topic, u.Host)
}

func (m *MQTT) validate() error {
	u, err := url.Parse(m.Broker)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "tcp" && u.Scheme != "mqtt" && u.Scheme != "tls" && u.Scheme != "ssl" && u.Scheme != "mqtts":
		return errors.New("broker: want tcp://host:1883 or tls://host:8883")
	case u.User != nil:
		return errors.New("broker: name user and password_file by themselves, not in the address")
	case m.Topic == "" || strings.ContainsAny(m.Topic, "+#"):
		return fmt.Errorf("topic %q: want the name of one topic", m.Topic)
	case m.MaxAgeS < 0 || m.TimeoutS < 0 || m.TimeoutS > maxTimeoutS:
		return fmt.Errorf("max_age_s may not be negative, and timeout_s is at most %d", maxTimeoutS)
	case m.MaxAgeS > maxTimeoutS && m.TimeField == "":
		return fmt.Errorf("max_age_s %g: a retained value does not say when it was published: name the time_field that does, or ask for at most %d s, which the check listens for", m.MaxAgeS, maxTimeoutS)
	case m.TimeField != "" && m.MaxAgeS == 0:
		return errors.New("time_field without max_age_s decides nothing")
	}
	return nil
}

func (m *MQTT) reader(now func() time.Time) func(context.Context) error {
	c := *m
	anew := c.MaxAgeS > 0 && c.TimeField == "" // only what is published while listening is young
	wait := timeout(c.TimeoutS)
	if anew && c.TimeoutS == 0 {
		wait = seconds(c.MaxAgeS)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		b, err := c.value(ctx, anew, wait)
		if err != nil {
			return unreadable("%w", err)
		}
		if c.TimeField != "" {
			s, err := field(b, c.TimeField)
			if err != nil {
				return unreadable("%w", err)
			}
			at, err := readTime(s)
			if err != nil {
				return unreadable("its field %q is no time: %w", c.TimeField, err)
			}
			if err := tooOld(at, now(), c.MaxAgeS); err != nil {
				return err
			}
		}
		return c.judge(b)
	}
}

// value returns the first message on the topic; anew leaves out the retained
// one.
func (m *MQTT) value(ctx context.Context, anew bool, wait time.Duration) ([]byte, error) {
	t, err := tlsConfig(m.CAFile, m.CertFile, m.KeyFile)
	if err != nil {
		return nil, err
	}
	password, err := secret(m.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("read password_file: %w", err)
	}
	got := make(chan []byte, 1)
	lost := make(chan error, 1)
	o := mqtt.NewClientOptions().AddBroker(m.Broker).SetClientID("swell-interlock-" + rand.Text()[:8]).
		SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(wait).SetWriteTimeout(wait).SetTLSConfig(t).SetUsername(m.User).SetPassword(password).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	client := mqtt.NewClient(o)
	defer client.Disconnect(0)
	done := func(token mqtt.Token) error {
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer in %s", wait)
		case <-token.Done():
			return token.Error()
		}
	}
	if err := done(client.Connect()); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	sub := client.Subscribe(m.Topic, 1, func(_ mqtt.Client, msg mqtt.Message) {
		if anew && msg.Retained() {
			return
		}
		select {
		case got <- msg.Payload():
		default:
		}
	})
	if err := done(sub); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	if s, ok := sub.(*mqtt.SubscribeToken); ok && s.Result()[m.Topic] == 0x80 {
		return nil, errors.New("the broker refuses the subscription")
	}
	select {
	case b := <-got:
		if len(b) > maxValue {
			return nil, fmt.Errorf("it is larger than %d bytes", maxValue)
		}
		return b, nil
	case err := <-lost:
		return nil, fmt.Errorf("the connection was lost: %w", err)
	case <-ctx.Done():
		if anew {
			return nil, fmt.Errorf("nothing was published in %s, and a retained value does not say how old it is", wait)
		}
		return nil, fmt.Errorf("no value in %s: nothing is retained there", wait)
	}
}

// readTime reads RFC 3339, or a number of seconds or milliseconds since 1970.
func readTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	f, err := json.Number(s).Float64()
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: want RFC 3339 or a number since 1970", strconv.Quote(s))
	}
	if f > 1e11 {
		f /= 1e3
	}
	if f < 0 || f > 1e11 {
		return time.Time{}, fmt.Errorf("%s is out of range", s)
	}
	return time.UnixMicro(int64(f * 1e6)), nil
}

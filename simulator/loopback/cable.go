package loopback

import (
	"io"
	"net"
	"sync"
)

// cable carries one device's connections to one address of the hub, and can be
// cut. A cut ends what is connected and lets nothing new through.
type cable struct {
	listener net.Listener
	to       string
	work     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newCable(to string) (*cable, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &cable{listener: l, to: to, conns: map[net.Conn]bool{}}
	c.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.work.Go(func() { c.carry(conn) })
		}
	})
	return c, nil
}

func (c *cable) address() string { return c.listener.Addr().String() }

// hold takes conn in until its end, or refuses it.
func (c *cable) hold(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cut {
		c.conns[conn] = true
	}
	return !c.cut
}

func (c *cable) drop(conn net.Conn) {
	c.mu.Lock()
	delete(c.conns, conn)
	c.mu.Unlock()
	_ = conn.Close() // it may be closed already
}

func (c *cable) carry(near net.Conn) {
	defer c.drop(near)
	if !c.hold(near) {
		return
	}
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer c.drop(far)
	if !c.hold(far) {
		return
	}
	// The first direction to end ends both.
	ended := make(chan struct{}, 2)
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // how a connection breaks is of no interest here
		ended <- struct{}{}
	}
	c.work.Go(func() { pipe(far, near) })
	c.work.Go(func() { pipe(near, far) })
	<-ended
}

// plug mends the cable, or cuts it.
func (c *cable) plug(in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = !in
	if c.cut {
		for conn := range c.conns {
			_ = conn.Close()
		}
	}
}

func (c *cable) close() {
	c.plug(false)
	_ = c.listener.Close()
	c.work.Wait()
}

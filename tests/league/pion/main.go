// pion/ice as a peer of the league: a full agent with the lab's STUN server, set up as its ping-pong example does; no TURN server.
// The offer and the answer go out when all candidates are gathered.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/pion/ice/v2"
)

const (
	server  = "203.0.113.10"
	longest = 25 * time.Second
)

type message struct {
	Listen     string   `json:"listen,omitempty"`
	To         string   `json:"to,omitempty"`
	Call       int      `json:"call"`
	User       string   `json:"user,omitempty"`
	Password   string   `json:"password,omitempty"`
	Candidates []string `json:"candidates,omitempty"`
}

func gathered() (*ice.Agent, message, error) {
	stun := &ice.URL{Scheme: ice.SchemeTypeSTUN, Host: server, Port: 3478, Proto: ice.ProtoTypeUDP}
	agent, err := ice.NewAgent(&ice.AgentConfig{
		NetworkTypes: []ice.NetworkType{ice.NetworkTypeUDP4},
		Urls:         []*ice.URL{stun},
	})
	if err != nil {
		return nil, message{}, err
	}
	var own message
	done := make(chan struct{})
	err = agent.OnCandidate(func(c ice.Candidate) {
		if c == nil {
			close(done)
			return
		}
		own.Candidates = append(own.Candidates, c.Marshal())
	})
	if err == nil {
		own.User, own.Password, err = agent.GetLocalUserCredentials()
	}
	if err == nil {
		err = agent.GatherCandidates()
	}
	if err == nil {
		<-done
	}
	return agent, own, err
}

func joined(agent *ice.Agent, other message, controlling bool) (*ice.Conn, error) {
	for _, text := range other.Candidates {
		candidate, err := ice.UnmarshalCandidate(text)
		if err != nil {
			return nil, err
		}
		if err := agent.AddRemoteCandidate(candidate); err != nil {
			return nil, err
		}
	}
	within, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	if controlling {
		return agent.Dial(within, other.User, other.Password)
	}
	return agent.Accept(within, other.User, other.Password)
}

func rendezvous(first message) (net.Conn, *bufio.Scanner, error) {
	conn, err := net.Dial("tcp", server+":7000")
	if err != nil {
		return nil, nil, err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	return conn, lines, json.NewEncoder(conn).Encode(first)
}

func answer(offer message, conn net.Conn) error {
	agent, own, err := gathered()
	if err != nil {
		return err
	}
	defer agent.Close()
	own.Call = offer.Call
	if err := json.NewEncoder(conn).Encode(own); err != nil {
		return err
	}
	direct, err := joined(agent, offer, false)
	if err != nil {
		return err
	}
	word := make([]byte, 64)
	for n := 0; err == nil; {
		if n, err = direct.Read(word); err == nil {
			_, err = direct.Write(word[:n])
		}
	}
	return err
}

func listen(key string) error {
	conn, lines, err := rendezvous(message{Listen: key})
	if err != nil {
		return err
	}
	fmt.Println(`{"event":"ready"}`)
	for lines.Scan() {
		var offer message
		if err := json.Unmarshal(lines.Bytes(), &offer); err != nil {
			return err
		}
		go func() { fmt.Fprintln(os.Stderr, answer(offer, conn)) }()
	}
	return lines.Err()
}

// Time from the start of gathering to the first answer.
func call(key string) (time.Duration, error) {
	begin := time.Now()
	agent, own, err := gathered()
	if err != nil {
		return 0, err
	}
	own.To = key
	_, lines, err := rendezvous(own)
	if err != nil {
		return 0, err
	}
	lines.Scan()
	var other message
	if err := json.Unmarshal(lines.Bytes(), &other); err != nil {
		return 0, err
	}
	direct, err := joined(agent, other, true)
	if err != nil {
		return 0, err
	}
	go func() {
		for ; err == nil; time.Sleep(500 * time.Millisecond) {
			_, err = direct.Write([]byte("there and back"))
		}
	}()
	_, err = direct.Read(make([]byte, 64))
	return time.Since(begin), err
}

func main() {
	if os.Args[1] == "listen" {
		fmt.Fprintln(os.Stderr, listen(os.Args[2]))
		return
	}
	time.AfterFunc(longest, func() {
		fmt.Println(`{"event":"failed","why":"no direct path in time"}`)
		os.Exit(0)
	})
	took, err := call(os.Args[2])
	said := map[string]any{"event": "connected", "elapsed_ms": float64(took.Microseconds()) / 1e3}
	if err != nil {
		said = map[string]any{"event": "failed", "why": err.Error()}
	}
	text, _ := json.Marshal(said)
	fmt.Println(string(text))
}

// A client of pion's: allocates, sends to an echo by channel and by indication, prints what came back.
//
//	pion udp|tcp|tls SERVER PEER USER PASSWORD COUNT [CA]
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dial(transport, server string) net.PacketConn {
	if transport == "udp" {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		check(err)
		return conn
	}
	if transport == "tcp" {
		conn, err := net.Dial("tcp", server)
		check(err)
		return turn.NewSTUNConn(conn)
	}
	pem, err := os.ReadFile(os.Args[7])
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"stun.turn"}}
	conn, err := tls.Dial("tcp", server, config)
	check(err)
	return turn.NewSTUNConn(conn)
}

func main() {
	transport, server := os.Args[1], os.Args[2]
	peer, err := net.ResolveUDPAddr("udp4", os.Args[3])
	check(err)
	count, err := strconv.Atoi(os.Args[6])
	check(err)
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server,
		TURNServerAddr: server,
		Conn:           dial(transport, server),
		Username:       os.Args[4],
		Password:       os.Args[5],
		LoggerFactory:  logging.NewDefaultLoggerFactory(),
	})
	check(err)
	defer client.Close()
	check(client.Listen())
	relayed, err := client.Allocate()
	check(err)
	buffer := make([]byte, 1600)
	for number := range count { // the first ones as indications, until the channel is bound
		sent := fmt.Sprintf("packet %d", number)
		_, err = relayed.WriteTo([]byte(sent), peer)
		check(err)
		check(relayed.SetReadDeadline(time.Now().Add(5 * time.Second)))
		size, from, err := relayed.ReadFrom(buffer)
		check(err)
		if string(buffer[:size]) != sent || from.String() != peer.String() {
			check(fmt.Errorf("%q from %v in answer to %q", buffer[:size], from, sent))
		}
	}
	check(relayed.Close())
	fmt.Println(count, "came back")
}

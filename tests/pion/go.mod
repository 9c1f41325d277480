module relay.test/pion

go 1.22

require (
	github.com/pion/logging v0.2.2
	github.com/pion/turn/v4 v4.0.0
)

require (
	github.com/pion/dtls/v3 v3.0.1 // indirect
	github.com/pion/randutil v0.1.0 // indirect
	github.com/pion/stun/v3 v3.0.0 // indirect
	github.com/pion/transport/v3 v3.0.7 // indirect
	github.com/wlynxg/anet v0.0.3 // indirect
	golang.org/x/crypto v0.25.0 // indirect
	golang.org/x/sys v0.22.0 // indirect
)

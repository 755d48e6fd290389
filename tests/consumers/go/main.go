// Command balancer is a client of a mesh: it knows several servers, checks their health itself, and
// makes one call for each line that it reads, at a server that is well. It prints the code of each call.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // Without it a client checks no health.
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	method = "/tillwatch.v1.PurchaseService/ListAccounts"
	config = `{
		"healthCheckConfig": {"serviceName": "tillwatch.v1.PurchaseService"},
		"loadBalancingConfig": [{"round_robin": {}}]
	}`
	callTimeout = 10 * time.Second
)

func main() {
	var servers resolver.State
	for _, address := range os.Args[1:] {
		one := resolver.Address{Addr: address}
		servers.Endpoints = append(servers.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{one}})
	}
	known := manual.NewBuilderWithScheme("known")
	known.InitialState(servers)
	connection, err := grpc.NewClient(
		"known:///purchases",
		grpc.WithResolvers(known),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer connection.Close()
	// A connection is made before it is needed, so that all servers take part from the first call on.
	connection.Connect()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(status.Code(call(connection)))
	}
}

// call lists the accounts. The messages' fields are of no interest.
func call(connection *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("TOKEN"))
	return connection.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
}

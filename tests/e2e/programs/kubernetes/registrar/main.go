// Registers a driver with kubelet, as the node-driver-registrar beside every CSI driver does: kubelet finds this socket, asks
// it for the driver's name and socket, and says whether it took them.
//
//	registrar DRIVER_SOCKET REGISTRATION_SOCKET
package main

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type driver struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (d driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              "secrets-store.csi.k8s.io",
		Endpoint:          d.socket,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (d driver) NotifyRegistrationStatus(
	_ context.Context, status *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	log.Println("registered:", status.PluginRegistered, status.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	socket, own := os.Args[1], os.Args[2]
	if err := os.Remove(own); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", own)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, driver{socket: socket})
	log.Fatal(server.Serve(listener))
}

// Package libnbd stands for libguestfs.org/libnbd, which is made of C. CDI's importer reads the disks of VMware with it and
// nothing else, and no bench does that.
package libnbd

import "errors"

const (
	CMD_FLAG_REQ_ONE uint32 = 8
	STATE_HOLE       uint32 = 1
	STATE_ZERO       uint32 = 2
)

type (
	Libnbd             struct{}
	LibnbdError        struct{ error }
	PreadOptargs       struct{}
	BlockStatusOptargs struct {
		FlagsSet bool
		Flags    uint32
	}
	ExtentCallback func(metacontext string, offset uint64, entries []uint32, err *int) int
)

var errNotHere = errors.New("libnbd is not in this build")

func Create() (*Libnbd, error) { return nil, errNotHere }

func (*Libnbd) AddMetaContext(string) error { return errNotHere }

func (*Libnbd) ConnectUri(string) error { return errNotHere }

func (*Libnbd) GetSize() (uint64, error) { return 0, errNotHere }

func (*Libnbd) Pread([]byte, uint64, *PreadOptargs) error { return errNotHere }

func (*Libnbd) Close() *LibnbdError { return nil }

func (*Libnbd) BlockStatus(uint64, uint64, ExtentCallback, *BlockStatusOptargs) error {
	return errNotHere
}

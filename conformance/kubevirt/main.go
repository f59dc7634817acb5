// Prints the definitions of KubeVirt and CDI, as their operators install them, for tests that validate objects on a real
// API server. Nothing here is part of DVCR.
package main

import (
	"encoding/json"
	"log"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	cdi "kubevirt.io/containerized-data-importer/pkg/operator/resources"
	kubevirt "kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"sigs.k8s.io/yaml"
)

func main() {
	log.SetFlags(0)
	items := []any{}
	for _, define := range []func() (*v1.CustomResourceDefinition, error){
		kubevirt.NewVirtualMachineCrd,
		kubevirt.NewVirtualMachineInstanceCrd,
		kubevirt.NewVirtualMachineClusterInstancetypeCrd,
		kubevirt.NewVirtualMachineClusterPreferenceCrd,
		dataVolume,
	} {
		definition, err := define()
		if err != nil {
			log.Fatal(err)
		}
		item, err := runtime.DefaultUnstructuredConverter.ToUnstructured(definition)
		if err != nil {
			log.Fatal(err)
		}
		// These are the API server's to say.
		unstructured.RemoveNestedField(item, "status")
		unstructured.RemoveNestedField(item, "metadata", "creationTimestamp")
		items = append(items, item)
	}
	list := json.NewEncoder(os.Stdout)
	list.SetIndent("", " ")
	if err := list.Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": items}); err != nil {
		log.Fatal(err)
	}
}

// CDI has its definitions as text, and its operator reads them.
func dataVolume() (*v1.CustomResourceDefinition, error) {
	definition := &v1.CustomResourceDefinition{}
	return definition, yaml.UnmarshalStrict([]byte(cdi.CDICRDs["datavolume"]), definition)
}

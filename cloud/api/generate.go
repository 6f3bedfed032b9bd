package api

//go:generate go tool -modfile=../../.ci/tools.mod oapi-codegen -config apimodel/config.yaml -o apimodel/apimodel.gen.go ../../protocol/openapi.yaml
//go:generate go tool -modfile=../../.ci/tools.mod oapi-codegen -config apigen/config.yaml -o apigen/apigen.gen.go ../../protocol/openapi.yaml
//go:generate go tool -modfile=../../.ci/tools.mod oapi-codegen -config apigen/spec.yaml -o apigen/spec.gen.go ../../protocol/openapi.yaml
//go:generate go tool -modfile=../../.ci/tools.mod oapi-codegen -config apiclient/config.yaml -o apiclient/apiclient.gen.go ../../protocol/openapi.yaml

// Checks files of deploy/ by the code of those who define their formats.
//
//	schema_check compose FILE     loads a compose file as `docker compose` does (compose-go),
//	                              and prints the model it stands for as JSON
//	schema_check dashboard FILE   reads a Grafana dashboard with Grafana's own types, strictly:
//	                              no unknown field, no missing one, no value of another type
//
// Exit code: 0 the file is valid; 1 it is not, and standard error says where; 2 wrong usage.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func checkCompose(path string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithInterpolation(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(text))
	return err
}

func checkDashboard(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	plugins.RegisterDefaultPlugins()
	var parsed dashboard.Dashboard
	if err := parsed.UnmarshalJSONStrict(text); !empty(err) {
		return err
	}
	if err := parsed.Validate(); !empty(err) {
		return err
	}
	return nil
}

// The types' code returns an empty list of errors for none.
func empty(err error) bool { return err == nil || err.Error() == "" }

func main() {
	checks := map[string]func(string) error{"compose": checkCompose, "dashboard": checkDashboard}
	if len(os.Args) != 3 || checks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: schema_check compose|dashboard FILE")
		os.Exit(2)
	}
	if err := checks[os.Args[1]](os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
		os.Exit(1)
	}
}

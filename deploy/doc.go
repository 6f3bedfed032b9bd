// Package deploy holds what a Swell installation is made of beside the
// programs: systemd units, packages, example configurations, a Compose file and
// dashboards.
//
// The parties are operators, who copy these files, and the tests of this
// package, which load every one of them with the parser of the program that
// will read it, so that an example cannot rot. There is no code here to import.
package deploy

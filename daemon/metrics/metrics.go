// Package metrics shows values to Prometheus. It is the only importer of its
// client, and it keeps nothing: what a scrape shows is what was true when it came.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Sample is one value at the moment of a scrape.
type Sample struct {
	Name, Help string
	Counter    bool     // else a gauge
	Labels     []string // name, value, name, value
	Value      float64
}

type collector func() []Sample

// Describe sends nothing: which labels there are changes with the cluster.
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, s := range c() {
		var names, values []string
		for i := 0; i+1 < len(s.Labels); i += 2 {
			names, values = append(names, s.Labels[i]), append(values, s.Labels[i+1])
		}
		kind := prometheus.GaugeValue
		if s.Counter {
			kind = prometheus.CounterValue
		}
		desc := prometheus.NewDesc(s.Name, s.Help, names, nil)
		m, err := prometheus.NewConstMetric(desc, kind, s.Value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		}
		out <- m
	}
}

// Handler answers scrapes with the samples and with what Go and the kernel know of
// this process. At most four scrapes are answered at once.
func Handler(samples func() []Sample) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector(samples), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

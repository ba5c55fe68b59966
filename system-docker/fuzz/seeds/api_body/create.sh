# First byte, the filters of a query, and the body of a create.
printf '\000'
cat <<'END'
{"label":["a=b"],"until":["10m"]}
{"Image":"os:v1","Cmd":["sh"],"Env":["A=b"],"HostConfig":{"Binds":["/a:/b:ro"],"Tmpfs":{"/t":"size=1m"},"PortBindings":{"80/tcp":[{"HostIp":"::1","HostPort":"8080-8090"}]},"UsernsMode":"auto","Memory":9000000,"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],"DeviceCgroupRules":["c 1:3 rwm"],"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":2},"Devices":[{"PathOnHost":"/dev/null"}]}}
END

/* Takes over a connected socket that p2pd opened, and knows nothing of p2pd: cc -o receive receive.c
 *
 *     p2pd connect ADDRESS --exec ./receive        the socket is descriptor 3
 *     ./receive PATH                               it comes over the Unix socket PATH (SCM_RIGHTS)
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int receive(int bringer)
{
    char byte;
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header;
    int fd = -1;

    if (recvmsg(bringer, &message, 0) <= 0)
        return -1;
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

static int wait_at(const char *path)
{
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    int door = socket(AF_UNIX, SOCK_STREAM, 0);

    if (strlen(path) >= sizeof place.sun_path)
        return -1;
    strcpy(place.sun_path, path);
    if (bind(door, (struct sockaddr *)&place, sizeof place) || listen(door, 1))
        return -1;
    puts("waiting");
    fflush(stdout);
    return receive(accept(door, NULL, NULL));
}

int main(int count, char **words)
{
    static const char hello[] = "hello from C\n";
    int peer = count > 1 ? wait_at(words[1]) : 3;
    char data[4096];
    ssize_t n;

    if (write(peer, hello, strlen(hello)) < 0) {
        perror("receive");
        return 1;
    }
    shutdown(peer, SHUT_WR);
    while ((n = read(peer, data, sizeof data)) > 0)
        fwrite(data, 1, n, stdout);
    return n < 0;
}
